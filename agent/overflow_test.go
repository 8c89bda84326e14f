package agent

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// statusV1 is what every reader of version 1 knows of the annotation, as it was
// before anything was left out of it for want of room.
type statusV1 struct {
	Version int       `json:"version"`
	Agent   string    `json:"agent"`
	Release string    `json:"release"`
	Time    time.Time `json:"time"`
	Models  []struct {
		Name     string `json:"name"`
		State    string `json:"state"`
		Tier     string `json:"tier"`
		Revision string `json:"revision"`
		Bytes    int64  `json:"bytes"`
		Fits     *int   `json:"fits"`
		Reason   string `json:"reason"`
		Pods     int    `json:"pods"`
		Wanted   bool   `json:"wanted"`
	} `json:"models"`
	Omitted int `json:"omitted"`
	GPUs    struct {
		Known bool `json:"known"`
		Count int  `json:"count"`
	} `json:"gpus"`
	Store struct {
		Known bool `json:"known"`
	} `json:"store"`
	List struct {
		Models   int    `json:"models"`
		Rejected string `json:"rejected"`
	} `json:"list"`
}

// manyModels are n models of which the last cold ones are not warm, each third of
// those failed with a long reason.
func manyModels(t *testing.T, n, cold int) []modelState {
	t.Helper()
	var out []modelState
	for i := range n {
		name := fmt.Sprintf("meta-llama-3.1-8b-%04d", i)
		m := warmModel(name, 1)
		m.Listed, m.Wanted, m.Bytes = true, true, 16<<30
		m.Revision = fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:40]
		m.Model.Source = source(t, "hf://organisation-"+m.Revision[:6]+"/Llama-3.1-8B-Instruct")
		if i >= n-cold {
			m.Warm, m.Tier, m.State, m.Size = false, "", StateQueued, nil
			if i%3 == 0 {
				m.State, m.Reason, m.Hint = StateFailed, strings.Repeat("why <ä> ", 50), strings.Repeat("do ", 60)
			}
		}
		m.Model.Priority = i % 7
		out = append(out, m)
	}
	return out
}

func describeMany(t *testing.T, n, cold int) (NodeStatus, gpuWord, []modelState) {
	t.Helper()
	models := manyModels(t, n, cold)
	w := wordOf(models, gpuFacts{Known: true, FreeKnown: true, Free: 2, Devices: devices(79, 79)}, nil)
	s := describe(models, w, answer[storeView]{Known: true}, measuredSpeed{})
	s.Agent, s.Release, s.List = "v1.2.3", "stoker/stoker", ListStatus{Models: n}
	return s, w, models
}

// TestAnnotationStaysBelow16KB: whatever the list, the annotation is small, its
// format is the one that older readers know, cold models go first, and the Lease
// has every model with its texts.
func TestAnnotationStaysBelow16KB(t *testing.T) {
	lease := StatusLease{Namespace: "stoker", Name: "stoker-status.gpu-1"}
	for _, tt := range []struct{ models, cold, least int }{{1, 0, 1}, {20, 5, 20}, {50, 10, 50}, {200, 50, 60}, {500, 0, 60}, {500, 480, 60}, {2000, 700, 60}} {
		t.Run(fmt.Sprint(tt.models, tt.cold), func(t *testing.T) {
			status, w, models := describeMany(t, tt.models, tt.cold)
			c := composer{now: noon, intervals: Intervals{Progress: 30 * time.Second}, agents: 1, lease: lease}
			s, err := c.compose(labels(models, w), status)
			if err != nil {
				t.Fatal(err)
			}
			if len(s.annotation) > 16_000 {
				t.Errorf("%d bytes", len(s.annotation))
			}
			var old statusV1
			if err := json.Unmarshal([]byte(s.annotation), &old); err != nil {
				t.Fatal(err)
			}
			if len(old.Models) < tt.least || len(old.Models)+old.Omitted != tt.models || old.Version != 1 || !old.GPUs.Known || old.List.Models != tt.models || !old.Time.Equal(noon) {
				t.Errorf("an older reader sees %d models, %d omitted of %d, %+v", len(old.Models), old.Omitted, tt.models, old.GPUs)
			}
			var names []string
			for _, m := range old.Models {
				names = append(names, m.Name)
			}
			if !slices.IsSorted(names) {
				t.Error("the models are not in order")
			}
			warm := 0
			for _, m := range old.Models {
				if m.Tier != "" {
					warm++
				}
			}
			if warm < len(old.Models) && warm < tt.models-tt.cold {
				t.Errorf("%d of %d models are warm, and yet warm ones were left out", warm, len(old.Models))
			}
			// No more than needed: one more would not have had room.
			if old.Omitted > 0 && len(s.annotation) < 16_000-300 {
				t.Errorf("%d left out of %d bytes", old.Omitted, len(s.annotation))
			}
			var now NodeStatus
			if err := json.Unmarshal([]byte(s.annotation), &now); err != nil {
				t.Fatal(err)
			}
			if now.More == "" {
				if old.Omitted > 0 || s.whole != "" {
					t.Error("nothing names the rest")
				}
				return
			}
			if got, ok := ParseStatusLease(now.More); !ok || got != lease {
				t.Errorf("more is %q", now.More)
			}
			if len(s.whole) > maxWhole {
				t.Errorf("the Lease holds %d bytes", len(s.whole))
			}
			text, err := UnpackStatus(s.whole)
			if err != nil {
				t.Fatal(err)
			}
			var whole NodeStatus
			if err := json.Unmarshal([]byte(text), &whole); err != nil {
				t.Fatal(err)
			}
			if whole.Omitted != 0 || len(whole.Models) != tt.models {
				t.Fatalf("the Lease has %d models and lacks %d", len(whole.Models), whole.Omitted)
			}
			for i, m := range whole.Models {
				if m.Name != status.Models[i].Name || m.Reason != status.Models[i].Reason || m.Hint != status.Models[i].Hint || m.Source == "" {
					t.Fatalf("the Lease says %+v of %+v", m, status.Models[i])
				}
			}
			t.Logf("%d models, %d cold: %d labels of %d B, annotation %d B with %d models, Lease %d B", tt.models, tt.cold, len(s.labels), s.size()-len(s.annotation), len(s.annotation), len(old.Models), len(s.whole))
		})
	}
}

// TestAnnotationWithoutModels: what is not of models must not crowd them out.
func TestAnnotationWithoutModels(t *testing.T) {
	status, _, _ := describeMany(t, 30, 0)
	status.List.Rejected = strings.Repeat("<ä>", 700)
	for i := range 56 {
		status.GPUs.Leaks = append(status.GPUs.Leaks, LeakStatus{Index: i, UUID: "GPU-12345678-1234-1234-1234-123456789abc", MIG: "MIG-12345678-1234-1234-1234-123456789abc", Bytes: 1 << 40, Since: noon.Unix()})
	}
	text, whole, err := status.encode(maxStatus)
	var back NodeStatus
	if err := errors.Join(err, json.Unmarshal([]byte(text), &back)); err != nil || whole || len(text) > maxStatus || back.Omitted != 0 {
		t.Errorf("%d bytes, %d models left out, whole %v: %v", len(text), back.Omitted, whole, err)
	}
	if len(back.GPUs.Leaks) != maxLeaks || len(back.List.Rejected) == 0 {
		t.Errorf("%d leaks and %d bytes of the list's mistakes are left", len(back.GPUs.Leaks), len(back.List.Rejected))
	}
}

// TestUsedAndImportantModelsStay: among models alike, those that pods here name stay,
// then those of higher priority.
func TestUsedAndImportantModelsStay(t *testing.T) {
	status, _, _ := describeMany(t, 1000, 1000)
	for i := range status.Models {
		status.Models[i].Reason, status.Models[i].Hint, status.Models[i].State = "", "", StateQueued
	}
	status.Models[900].Pods = 2
	text, _, err := status.encode(maxStatus)
	var back NodeStatus
	if err := errors.Join(err, json.Unmarshal([]byte(text), &back)); err != nil {
		t.Fatal(err)
	}
	used, unimportant := false, 0
	for _, m := range back.Models {
		used = used || m.Name == status.Models[900].Name
		if status.priorities[m.Name] < 6 && m.Pods == 0 {
			unimportant++
		}
	}
	if !used || unimportant > 0 {
		t.Errorf("the used model is there: %v; %d of lower priority are, where %d of the highest are not", used, unimportant, 143-len(back.Models))
	}
}

// TestProgressGrowsRare: small nodes in small fleets write as the settings say; what a
// node and a fleet write per second stays bounded.
func TestProgressGrowsRare(t *testing.T) {
	iv := Intervals{LabelWrites: 2 * time.Second, Progress: 30 * time.Second}
	for _, tt := range []struct {
		models, agents int
		whole          int // bytes of the Lease
		want           time.Duration
	}{
		{5, 1, 0, 30 * time.Second},
		{20, 100, 0, 30 * time.Second},
		{20, 5000, 0, 0},
		{500, 1, 30_000, 30 * time.Second},
		{500, 5000, 30_000, 0},
		{2000, 5000, 200_000, maxPace},
	} {
		status, w, models := describeMany(t, tt.models, 0)
		c := composer{now: noon, intervals: iv, agents: tt.agents}
		s, err := c.compose(labels(models, w), status)
		if err != nil {
			t.Fatal(err)
		}
		s.whole = strings.Repeat("x", tt.whole)
		every := progressEvery(iv, s, tt.agents)
		size := s.size()
		if tt.whole > 0 {
			size = tt.whole
		}
		if tt.want != 0 && every != tt.want {
			t.Errorf("%d models, %d agents: every %s, want %s", tt.models, tt.agents, every, tt.want)
		}
		if perSecond := float64(size) * float64(tt.agents) / every.Seconds(); every < maxPace && (perSecond > fleetRate*1.01 || float64(size)/every.Seconds() > nodeRate*1.01) {
			t.Errorf("%d models, %d agents: %.0f B/s into etcd", tt.models, tt.agents, perSecond)
		}
	}
}

// TestLargeNodesWriteRarely: a label goes at once, whatever the size; what a large node
// says besides waits in proportion to it, and progress goes into the Lease alone.
func TestLargeNodesWriteRarely(t *testing.T) {
	iv := Intervals{LabelWrites: 2 * time.Second, Progress: 30 * time.Second, RetryMin: time.Second, RetryMax: time.Hour}
	status, w, models := describeMany(t, 500, 100)
	c := composer{now: noon, intervals: iv, agents: 1, lease: StatusLease{Namespace: "n", Name: "l"}}
	compose := func(status NodeStatus, labels map[string]string) said {
		t.Helper()
		s, err := c.compose(labels, status)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	all := labels(models, w)
	first := compose(status, all)
	s := sayer{last: noon, confirmed: &first, agents: 1}
	wait := func(want said) time.Duration {
		_, at := s.due(noon, want, iv)
		return at.Sub(noon)
	}
	fewer, more := maps.Clone(all), maps.Clone(all)
	delete(fewer, WarmPrefix+models[0].Name)
	more[WarmPrefix+"another"] = TierDisk
	if got := wait(compose(status, fewer)); got != iv.LabelWrites {
		t.Errorf("a label goes after %s", got)
	}
	if got := wait(compose(status, more)); got <= iv.LabelWrites || got > 20*time.Second {
		t.Errorf("a label comes after %s", got)
	}
	pulling := status
	pulling.Models = slices.Clone(status.Models)
	m := &pulling.Models[499]
	m.State, m.DoneBytes, m.TotalBytes = StatePulling, 1, 100
	began := compose(pulling, all)
	if got := wait(began); !s.leaseOnly(began) || got < iv.LabelWrites || got > iv.Progress {
		t.Errorf("that a model left out is pulled takes the Node as well: %v, after %s", !s.leaseOnly(began), got)
	}
	s.confirmed = &began
	pulling.Models = slices.Clone(pulling.Models)
	pulling.Models[499].DoneBytes = 50
	on := compose(pulling, all)
	if got := wait(on); !s.leaseOnly(on) || got < iv.Progress {
		t.Errorf("progress takes the Node as well: %v, after %s", !s.leaseOnly(on), got)
	}
}

// TestLoopWritesTheLease: the Lease is there before the Node names it, is written anew
// only when something changed, and never holds up a label; the setting takes effect when
// the file changes.
func TestLoopWritesTheLease(t *testing.T) {
	list := func(n int, tail string) string {
		var b strings.Builder
		b.WriteString("models:\n")
		for i := range n {
			fmt.Fprintf(&b, "- {name: model-with-a-name-that-is-almost-as-long-as-names-may-be-%04d, source: 'hf://organisation-%d/model-%d@%s'}\n", i, i, i, commit)
		}
		return b.String() + "pull: {concurrentModels: 120}\n" + strings.Replace(fast, "observe: 1s", "observe: 5s", 1) + tail
	}
	const withLease = "status: {namespace: ns, lease: rel-status}\n"
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, list(120, withLease))
		b.cluster.noLease = errors.New("forbidden")
		b.start()
		said := func() (s NodeStatus, packed []string, warm int) {
			b.cluster.mu.Lock()
			defer b.cluster.mu.Unlock()
			if err := json.Unmarshal([]byte(b.cluster.view.Status), &s); err != nil {
				t.Fatal(err)
			}
			return s, b.cluster.packed, len(b.cluster.view.promises())
		}
		after(40 * time.Second)
		if s, packed, warm := said(); warm != 120 || len(packed) != 0 || s.More != "leases/ns/rel-status.n" || s.Omitted == 0 {
			t.Errorf("without the right to write the Lease: %d warm, %d written, more %q, %d omitted", warm, len(packed), s.More, s.Omitted)
		}
		b.cluster.set(func() { b.cluster.noLease = nil })
		after(40 * time.Second)
		s, packed, _ := said()
		if len(packed) != 1 {
			t.Fatalf("the Lease was written %d times after it could be", len(packed))
		}
		text, err := UnpackStatus(packed[0])
		var whole NodeStatus
		if err := errors.Join(err, json.Unmarshal([]byte(text), &whole)); err != nil || len(whole.Models) != 120 || len(s.Models)+s.Omitted != 120 {
			t.Errorf("the Lease has %d models: %v", len(whole.Models), err)
		}
		writes := b.cluster.count()
		after(time.Minute)
		if _, packed, _ := said(); len(packed) != 1 || b.cluster.count() != writes {
			t.Errorf("%d and %d writes in a minute in which nothing changed", len(packed)-1, b.cluster.count()-writes)
		}
		b.write(list(120, ""))
		after(time.Minute)
		if s, _, warm := said(); s.More != "" || s.Omitted == 0 || warm != 120 {
			t.Errorf("without the setting: more %q, %d omitted, %d warm", s.More, s.Omitted, warm)
		}
		b.write(list(3, ""))
		after(time.Minute)
		if s, _, warm := said(); s.More != "" || s.Omitted != 0 || warm != 3 {
			t.Errorf("of a short list: more %q, %d omitted, %d warm", s.More, s.Omitted, warm)
		}
	})
}
