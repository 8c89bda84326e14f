package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/agent/measure"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// serving is a pod with a replica of a model on so many GPUs that is ready to be measured.
func serving(uid, namespace, model string, gpus int) pod {
	return pod{
		UID: uid, Phase: corev1.PodRunning, Labels: map[string]string{ModelLabel: model}, GPUs: gpus,
		Replica: &replicaPod{
			Namespace: namespace, Address: netip.MustParseAddrPort("10.0.0.7:0"), ReadyAt: noon, InitializedAt: noon.Add(-time.Minute),
			Split: []string{fmt.Sprintf("--tensor-parallel-size=%d", gpus)},
		},
	}
}

func TestMeasureTargets(t *testing.T) {
	cfg := MeasureConfig{Enabled: true, Port: 8000, TrustedNamespaces: []string{"team-a"}}
	with := func(change func(p *pod)) pod {
		p := serving("u", "team-b", "m", 1)
		change(&p)
		return p
	}
	alike := gpuFacts{Known: true, FreeKnown: true, Devices: devices(79, 79)}
	other := devices(79, 79)
	other[1].Name = "Other GPU"
	mig := devices(79, 79)
	mig[0].MIG = &gpu.MIG{}
	manifest := store.Manifest{Name: "m", Revision: commit, PublishedAt: noon.Add(-time.Hour)}
	cold, unsized, stale := warmModel("m", 1), warmModel("m", 1), warmModel("m", 1)
	cold.Warm, unsized.Size, stale.Revision = false, nil, strings.Repeat("b", 40)
	for _, tt := range []struct {
		name  string
		cfg   MeasureConfig
		pod   pod
		model modelState
		gpus  gpuFacts
		want  string
	}{
		{"a replica", cfg, with(func(*pod) {}), warmModel("m", 1), alike, "10.0.0.7:8000 on 1"},
		{"of a trusted namespace", cfg, serving("u", "team-a", "m", 1), warmModel("m", 1), alike, "10.0.0.7:8000 on 1, trusted"},
		{"with a port", cfg, with(func(p *pod) { p.Replica.Address = netip.MustParseAddrPort("10.0.0.7:9000") }), warmModel("m", 1), alike, "10.0.0.7:9000 on 1"},
		{"on more than the list says", cfg, serving("u", "team-b", "m", 2), warmModel("m", 1), alike, "10.0.0.7:8000 on 2"},
		{"without arguments, as the list says", cfg, with(func(p *pod) { p.GPUs, p.Replica.Split = 2, nil }), warmModel("m", 2), alike, "10.0.0.7:8000 on 2"},
		{"just initialized", cfg, with(func(p *pod) { p.Replica.InitializedAt = manifest.PublishedAt }), warmModel("m", 1), alike, "10.0.0.7:8000 on 1"},
		{"switched off", MeasureConfig{Port: 8000}, with(func(*pod) {}), warmModel("m", 1), alike, ""},
		{"without arguments, otherwise than the list says", cfg, with(func(p *pod) { p.GPUs, p.Replica.Split = 2, nil }), warmModel("m", 1), alike, ""},
		{"split in another way", cfg, with(func(p *pod) { p.GPUs, p.Replica.Split = 2, []string{"--pipeline-parallel-size=2"} }), warmModel("m", 2), alike, ""},
		{"on fewer than it has", cfg, with(func(p *pod) { p.GPUs = 2 }), warmModel("m", 1), alike, ""},
		{"without a GPU", cfg, with(func(p *pod) { p.GPUs = 0 }), warmModel("m", 1), alike, ""},
		{"with a part of one", cfg, with(func(p *pod) { p.GPUParts = true }), warmModel("m", 1), alike, ""},
		{"ended", cfg, with(func(p *pod) { p.Phase = corev1.PodSucceeded }), warmModel("m", 1), alike, ""},
		{"not ready", cfg, with(func(p *pod) { p.Replica = nil }), warmModel("m", 1), alike, ""},
		{"of a model that is not listed", cfg, serving("u", "team-b", "n", 1), warmModel("m", 1), alike, ""},
		{"of none", cfg, with(func(p *pod) { p.Labels = nil }), warmModel("m", 1), alike, ""},
		{"of a cold one", cfg, with(func(*pod) {}), cold, alike, ""},
		{"of one without size", cfg, with(func(*pod) {}), unsized, alike, ""},
		{"of a revision that is not published", cfg, with(func(*pod) {}), stale, alike, ""},
		{"started before it was published", cfg, with(func(p *pod) { p.Replica.InitializedAt = noon.Add(-2 * time.Hour) }), warmModel("m", 1), alike, ""},
		{"GPUs unknown", cfg, with(func(*pod) {}), warmModel("m", 1), gpuFacts{}, ""},
		{"GPUs of two kinds", cfg, with(func(*pod) {}), warmModel("m", 1), gpuFacts{Known: true, Devices: other}, ""},
		{"MIG devices beside whole GPUs", cfg, with(func(*pod) {}), warmModel("m", 1), gpuFacts{Known: true, Devices: mig}, "10.0.0.7:8000 on 1"},
		{"GPUs that are shared", cfg, with(func(*pod) {}), warmModel("m", 1), gpuFacts{Known: true, Devices: devices(79), Divided: true}, ""},
	} {
		published := map[string]storedModel{"m": {Manifest: manifest}}
		got := ""
		for _, target := range measureTargets(tt.cfg, []pod{tt.pod}, []modelState{tt.model}, published, tt.gpus) {
			got += fmt.Sprintf("%s on %d", target.Address, target.TensorParallel)
			if target.Trusted {
				got += ", trusted"
			}
			if target.Device.Name != "Test GPU" || target.Device.UsableBytes != 80*gib || target.Revision != commit {
				t.Errorf("%s: %+v", tt.name, target)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %q; want %q", tt.name, got, tt.want)
		}
	}
	var many []pod
	for i := range 2 * mostMeasured {
		many = append(many, serving(fmt.Sprintf("flood-%03d", i), "team-b", "m", 1))
	}
	many = append(many, serving("zzz", "team-a", "m", 1))
	targets := measureTargets(cfg, many, []modelState{warmModel("m", 1)}, map[string]storedModel{"m": {Manifest: manifest}}, alike)
	if len(targets) != mostMeasured || targets[0].Pod != "zzz" {
		t.Errorf("%d are asked, %s first", len(targets), targets[0].Pod)
	}
}

// TestDividedGPUs: more GPUs than there are, are shares of them.
func TestDividedGPUs(t *testing.T) {
	reading := answer[[]gpu.Device]{Known: true, Value: devices(79, 79)}
	for gpus, want := range map[int]bool{1: false, 2: false, 8: true} {
		if g := gpuFactsOf(reading, facts{PodsKnown: true}, nodeView{GPUs: gpus, GPUsKnown: true}); g.Divided != want {
			t.Errorf("%d of two: divided %t", gpus, g.Divided)
		}
	}
}

// TestMeasuredFits: what was measured moves between the label and what is tight, and is told beside it.
func TestMeasuredFits(t *testing.T) {
	m := warmModel("m", 1)
	need, err := m.Size.Need(m.Model.Serving)
	if err != nil {
		t.Fatal(err)
	}
	budget := func(bytes uint64) float64 { return float64(bytes) / (80 * gib) }
	fits, tight := budget(need.MostBytes()+gib/8), budget(need.MostBytes()-gib/8)
	no := budget(need.LeastBytes() - gib/8)
	for _, tt := range []struct {
		name    string
		share   float64
		took    uint64
		trusted bool
		version string
		label   string
		tight   int
	}{
		{"nothing measured", fits, 0, false, "0.33.0", "2", 0},
		{"more than expected", fits, need.OverheadMaxBytes + gib, false, "0.33.0", "0", 2},
		{"more than expected, trusted", fits, need.OverheadMaxBytes + gib, true, "0.33.0", "0", 2},
		{"more than expected, another release", fits, need.OverheadMaxBytes + gib, true, "0.32.0", "0", 2},
		{"tight", tight, need.OverheadMinBytes, false, "0.33.0", "0", 2},
		{"tight, trusted", tight, need.OverheadMinBytes, true, "0.33.0", "2", 0},
		{"tight, trusted, another release", tight, need.OverheadMinBytes, true, "0.32.0", "0", 2},
		{"tight, trusted, no known release", tight, need.OverheadMinBytes, true, "", "0", 2},
		{"no, trusted", no, need.OverheadMinBytes, true, "0.33.0", "0", 0},
	} {
		m.Model.Serving.GPUMemoryUtilization = tt.share
		r := measure.Record{
			Pod: "u", Trusted: tt.trusted, Model: "m", Revision: commit, GPU: "Test GPU", TotalBytes: 80 * gib, TensorParallel: 1,
			VLLMVersion: tt.version, GPUMemoryUtilization: 0.9, KVCacheDtype: "bfloat16", BesideBytes: tt.took, At: noon, Seen: noon,
		}
		g := gpuFacts{Known: true, FreeKnown: true, Free: 2, Devices: devices(80, 80), Measured: measure.Book{}.With(r)}
		w := wordOf([]modelState{m}, g, nil)
		if got := labels([]modelState{m}, w)[FitsPrefix+"m"]; got != tt.label || w.Tight["m"] != tt.tight {
			t.Errorf("%s: label %q, %d tight; want %q, %d", tt.name, got, w.Tight["m"], tt.label, tt.tight)
		}
		var s steady
		s.feed(noon, w, time.Minute)
		told := describe([]modelState{m}, s.now, answer[storeView]{}, measuredSpeed{}).Models[0].Measured
		if tt.took == 0 != (told == nil) || told != nil && *told != (MeasuredStatus{BesideBytes: tt.took, Trusted: tt.trusted && tt.version == "0.33.0"}) {
			t.Errorf("%s: the annotation says %+v", tt.name, told)
		}
	}
}

// cachePage is a metrics page of a replica of sized14 on a test GPU that took so much beside weights and cache.
func cachePage(took uint64) []byte {
	const block = 28 * 4 * 256 * 2 * 16
	total := float64(80 * gib)
	left := uint64(0.9*total) - 14*gib - took
	return fmt.Appendf(nil, `vllm:cache_config_info{block_size="16",cache_dtype="auto",gpu_memory_utilization="0.9",num_gpu_blocks="%d"} 1.0`+"\n", left/block)
}

// TestRecordGoesByItsRelease: what a replica took is computed by the rules of its own release, where those are known.
func TestRecordGoesByItsRelease(t *testing.T) {
	size := sized14()
	size.Architecture.FullLayers, size.Architecture.WindowLayers, size.Architecture.WindowTokens = 0, 28, 512
	target := measureTarget{
		Pod: "u", Name: "m", Revision: commit, Size: size, TensorParallel: 1,
		Device: sizing.DeviceMemory{Name: "Test GPU", TotalBytes: 80 * gib, UsableBytes: 80 * gib},
	}
	for version, fails := range map[string]bool{"0.25.1": false, "0.26.0": true, "0.33.0": true, "": true, "0.99.0": true} {
		need, err := size.Need(sizing.Serving{VLLMVersion: "0.25", MaxModelLen: 1 << 20, GPUMemoryUtilization: 0.9})
		if err != nil {
			t.Fatal(err)
		}
		perRequest := float64(need.KVBytes) / (28 * 4 * 256 * 2 * 16) // a window with one batch, as before 0.26
		const blocks = 10000
		page := fmt.Appendf(nil, `vllm:cache_config_info{block_size="16",cache_dtype="auto",gpu_memory_utilization="0.9",num_gpu_blocks="%d",kv_cache_max_concurrency="%f",kv_cache_size_tokens="%d"} 1.0`+"\n",
			blocks, blocks/perRequest, int64(blocks/perRequest*(1<<20)))
		target.VLLMVersion = version
		if r, err := target.record(page, noon); (err != nil) != fails || err == nil && r.VLLMVersion != version {
			t.Errorf("%q: %+v, %v", version, r, err)
		}
	}
}

func TestMeasurer(t *testing.T) {
	target := measureTarget{
		Pod: "u", Address: netip.MustParseAddrPort("10.0.0.7:8000"), ReadyAt: noon, Namespace: "team-b", Name: "m", Revision: commit, Size: sized14(),
		Device: sizing.DeviceMemory{Name: "Test GPU", TotalBytes: 80 * gib, UsableBytes: 80 * gib}, TensorParallel: 1, VLLMVersion: "0.33.0",
	}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // the fakes'
		var at []time.Duration
		began := time.Now()
		answer, fails := cachePage(3*gib), error(nil)
		woken := 0
		next := func(page []byte, err error) {
			mu.Lock()
			defer mu.Unlock()
			answer, fails = page, err
		}
		m := newMeasurer(func(ctx context.Context, addr netip.AddrPort, _ []netip.Addr) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(began))
			if addr != target.Address || ctx.Err() != nil {
				t.Errorf("%s is asked: %v", addr, ctx.Err())
			}
			return answer, fails
		}, func() { mu.Lock(); defer mu.Unlock(); woken++ }, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { m.run(ctx); close(done) }()
		asked := func(what string, after time.Duration, want ...time.Duration) {
			t.Helper()
			mu.Lock()
			at, began = nil, time.Now()
			mu.Unlock()
			time.Sleep(after)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(at, want) {
				t.Errorf("%s: asked at %v; want %v", what, at, want)
			}
		}
		asked("nobody", time.Hour)
		m.want([]measureTarget{target})
		asked("once", 5*time.Hour, 0)
		got := m.take()
		if len(got) != 1 || len(m.take()) != 0 || woken != 1 {
			t.Fatalf("%d measurements, woken %d times", len(got), woken)
		}
		r := got[0]
		const block = 28 * 4 * 256 * 2 * 16
		if r.BesideBytes < 3*gib || r.BesideBytes > 3*gib+block+1 || r.Pod != "u" || r.Namespace != "" || r.Trusted || r.TensorParallel != 1 || r.GPU != "Test GPU" ||
			r.Revision != commit || r.VLLMVersion != "0.33.0" || r.GPUMemoryUtilization != 0.9 || r.KVCacheDtype != "bfloat16" || r.CacheTokens == 0 {
			t.Errorf("measured %+v", r)
		}
		m.want([]measureTarget{target})
		asked("the same", 2*time.Hour, time.Hour)
		restarted := target
		restarted.ReadyAt = noon.Add(time.Minute)
		m.want([]measureTarget{restarted})
		asked("ready again", time.Hour, 0)
		trusted := restarted
		trusted.Trusted = true
		m.want([]measureTarget{trusted})
		asked("trusted by now", time.Hour, 0)
		if got := m.take(); got[len(got)-1].Namespace != "team-b" || !got[len(got)-1].Trusted {
			t.Errorf("measured %+v", got)
		}
		m.want(nil)
		asked("gone", 24*time.Hour)

		next(nil, errors.New("connection refused"))
		m.want([]measureTarget{target})
		asked("failing", 5*time.Minute, 0, 30*time.Second, 90*time.Second, 210*time.Second)
		time.Sleep(48 * time.Hour)
		const first = 2*time.Hour + 26*time.Minute + 30*time.Second // 30 s, doubled until it is 6 h
		asked("failing for long", 25*time.Hour, first, first+6*time.Hour, first+12*time.Hour, first+18*time.Hour)
		next([]byte(`vllm:cache_config_info{num_gpu_blocks_override="7"} 1`), nil)
		m.want([]measureTarget{restarted})
		asked("not measurable", 7*time.Hour, 0, 6*time.Hour)
		next(nil, measure.ErrAddress)
		m.want([]measureTarget{target})
		asked("not to be asked", 5*time.Hour, 0)
		if got := m.take(); len(got) != 0 {
			t.Errorf("measured %+v", got)
		}
		cancel()
		<-done
	})
}

// TestMeasurePages: what cannot be is no measurement.
func TestMeasurePages(t *testing.T) {
	target := measureTarget{
		Pod: "u", Name: "m", Revision: commit, Size: sized14(), Device: sizing.DeviceMemory{Name: "Test GPU", TotalBytes: 80 * gib, UsableBytes: 80 * gib}, TensorParallel: 1,
	}
	page := func(changes ...string) []byte {
		return []byte(strings.NewReplacer(changes...).Replace(string(cachePage(3 * gib))))
	}
	for name, data := range map[string][]byte{
		"a cache beyond the GPU":   page(`num_gpu_blocks="`, `num_gpu_blocks="9`),
		"another share":            page(`utilization="0.9"`, `utilization="0.5"`),
		"a type of unknown size":   page(`cache_dtype="auto"`, `cache_dtype="turboquant_k8v4"`),
		"longer requests than any": page(`} 1.0`, `,kv_cache_size_tokens="1099511627776",kv_cache_max_concurrency="1.0"} 1.0`),
		"nothing":                  nil,
	} {
		if r, err := target.record(data, noon); err == nil {
			t.Errorf("%s: measured %+v", name, r)
		}
	}
	three := target
	three.TensorParallel = 3 // does not divide its heads
	if r, err := three.record(page(), noon); !errors.Is(err, measure.ErrNotMeasurable) {
		t.Errorf("on three GPUs: measured %+v, %v", r, err)
	}
}
