package agent

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/gpu/sizing"
)

var update = flag.Bool("update", false, "rewrite golden files")

// golden compares got with a file under testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); go test -update rewrites it:\n%s", path, diff)
	}
}

// parse reads a configuration that must be good.
func parse(t *testing.T, text string) Config {
	t.Helper()
	cfg, err := ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestConfigDefaults(t *testing.T) {
	got := parse(t, "models: []")
	want := Config{
		Models:  []Model{},
		Store:   StoreConfig{Reserve: Share{Percent: 20}},
		Pull:    PullConfig{ConcurrentModels: 2, Jobs: 32},
		GPU:     GPUConfig{LeakAbove: Share{Percent: 5}},
		Measure: MeasureConfig{Port: 8000},
		Startup: StartupConfig{Timeout: 30 * time.Minute},
		Scrub:   ScrubConfig{Rate: 50 << 20, Cycle: 24 * time.Hour},
		RAM:     RAMConfig{Rate: 200 << 20},
		Volume:  VolumeConfig{Mode: VolumeNode, Lease: "stoker-store", LeaseDuration: 30 * time.Second},
		Intervals: Intervals{
			Observe: 5 * time.Second, LabelWrites: 2 * time.Second, Progress: 30 * time.Second, GPU: time.Minute,
			GPURise: time.Minute, GPULeak: 5 * time.Minute,
			Heartbeat: 10 * time.Second, Verify: 30 * time.Second, RetryMin: 5 * time.Second, RetryMax: 10 * time.Minute,
			Residency: 15 * time.Second, Resync: time.Minute, Timeout: 15 * time.Second, Leave: 2 * time.Minute, Grace: 10 * time.Minute,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults differ (-want +got):\n%s", diff)
	}
}

func TestConfigEverything(t *testing.T) {
	got := parse(t, `
models:
- source: hf://Qwen/Qwen2.5-7B-Instruct@main
- name: llama
  source: s3://models/llama
  fileFormat: hf
  also: [original/]
  include: ["*.safetensors"]
  exclude: ["*.bin"]
  nodeSelector: {pool: gpu}
  priority: -3
  refresh: 10m
  ram: true
  credentials: team-a
  endpoint: https://mirror.example:8443
  serving:
    {tensorParallel: 2, maxModelLen: 32768, gpuMemoryUtilization: 0.9, kvCacheDtype: fp8, pipelineParallel: 2, maxNumSeqs: 64, maxNumBatchedTokens: 4096,
     enforceEager: true, quantization: fp8, cpuOffloadGB: 1.5, extraArgs: [--port=8000, --enable-lora, --dtype, bfloat16]}
- name: drop
  source: file:///srv/drop
  access: {followLinks: [/srv/cache, /mnt/blobs]}
store: {quota: 500Gi, reserve: 100Gi}
pull: {concurrentModels: 3, jobs: 4, maxRate: 500Mi}
gpu: {leakAbove: 2Gi}
measure: {enabled: true, port: 9000, trustedNamespaces: [team-a]}
scrub: {rate: 1Gi, cycle: 168h}
ram: {budget: 25%, rate: 1Gi}
intervals: {observe: 1s, grace: 30s}
`)
	if name := got.Models[0].Name; name != "qwen2.5-7b-instruct" {
		t.Errorf("derived name is %q", name)
	}
	m := got.Models[1]
	want := Model{
		Name: "llama", Source: m.Source, FileFormat: "hf", Also: []string{"original/"}, Include: []string{"*.safetensors"}, Exclude: []string{"*.bin"},
		NodeSelector: map[string]string{"pool": "gpu"}, Priority: -3, Refresh: 10 * time.Minute, RAM: true,
		Credentials: "team-a", Access: fetcher.Access{Endpoint: "https://mirror.example:8443"},
		Serving: sizing.Serving{
			TensorParallel: 2, MaxModelLen: 32768, GPUMemoryUtilization: 0.9, KVCacheDtype: "fp8", PipelineParallel: 2, MaxNumSeqs: 64, MaxNumBatchedTokens: 4096,
			EnforceEager: true, Quantization: "fp8", CPUOffloadGB: 1.5, Dtype: "bfloat16", Uncounted: []string{"--enable-lora"},
		},
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("model differs (-want +got):\n%s", diff)
	}
	drop := got.Models[2]
	if diff := cmp.Diff([]string{"/srv/cache", "/mnt/blobs"}, drop.Access.FollowLinks); diff != "" {
		t.Errorf("links differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(drop.Access.FollowLinks, drop.Request("").Access.FollowLinks); diff != "" {
		t.Errorf("the fetcher's links differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(m.choice(), fetcher.Choice{Include: m.Include, Also: m.Also, Exclude: m.Exclude, FileFormat: m.FileFormat}); diff != "" {
		t.Errorf("the fetcher's choice differs (-want +got):\n%s", diff)
	}
	if req := m.Request(""); req.FileFormat != "hf" || len(req.Also) != 1 {
		t.Errorf("the fetcher is asked for %+v", req)
	}
	other := m
	other.Also = nil
	if other.transfer() == m.transfer() {
		t.Error("a failure is not forgotten when the choice of files changes")
	}
	other = drop
	other.Access.FollowLinks = nil
	if other.transfer() == drop.transfer() {
		t.Error("a failure is not forgotten when the links that are followed change")
	}
	if m.Source.String() != "s3://models/llama" {
		t.Errorf("source is %s", m.Source)
	}
	if got := got.Measure; !got.Enabled || got.Port != 9000 || !slices.Equal(got.TrustedNamespaces, []string{"team-a"}) {
		t.Errorf("measure is wrong: %+v", got)
	}
	if got.Store.Quota != 500<<30 || got.Store.Reserve.Of(1<<50) != 100<<30 || got.Pull.MaxRate != 500<<20 || got.GPU.LeakAbove.Of(80<<30) != 2<<30 {
		t.Errorf("sizes are wrong: %+v %+v %+v", got.Store, got.Pull, got.GPU)
	}
	if want := (ScrubConfig{Rate: 1 << 30, Cycle: 7 * 24 * time.Hour}); got.Scrub != want {
		t.Errorf("scrub is %+v", got.Scrub)
	}
	if want := (RAMConfig{Budget: Share{Percent: 25}, Rate: 1 << 30}); got.RAM != want {
		t.Errorf("ram is %+v", got.RAM)
	}
}

// A key of an entry that has no value is as if it were absent, as the chart writes it on.
func TestConfigTakesNullForAbsent(t *testing.T) {
	bare := parse(t, "models: [{source: 'hf://o/n', name: , fileFormat: , also: , include: , exclude: , nodeSelector: , priority: , refresh: , ram: , credentials: , endpoint: , access: , serving: }]")
	settings := parse(t, "models: [{source: 'hf://o/n', access: {addressing: , unsigned: , requesterPays: , etagIsDigest: , headerTimeout: , caBundle: , insecure: , followLinks: }, serving: {tensorParallel: , maxModelLen: , gpuMemoryUtilization: , kvCacheDtype: , extraArgs: }}]")
	absent := parse(t, "models: [{source: 'hf://o/n'}]")
	for _, got := range []Config{bare, settings} {
		if diff := cmp.Diff(absent, got); diff != "" {
			t.Errorf("(-absent +null):\n%s", diff)
		}
	}
}

// The golden file is what an operator reads: every mistake, its value, the fix.
func TestConfigNamesEveryMistake(t *testing.T) {
	_, err := ParseConfig([]byte(`
models:
- name: Big_Model
  source: hf://Qwen/
  priority: high
  refresh: 10
  tensorParalel: 2
- source: hf://Qwen/Qwen2.5-7B-Instruct@main
- name: qwen2.5-7b-instruct
  source: file:///srv/models/qwen
- name: third
  source: ftp://host/x
  ram: "yes"
  include: "*.json"
  fileFormat: gguf
  nodeSelector: {"bad key": "x", pool: true}
  credentials: hf_abcdefghijklmnop
  endpoint: https://user:hunter2@mirror.example
  serving: {tensorParallel: 0, gpuMemoryUtilization: 92, kvCache: fp8, maxNumSeqs: many, cpuOffloadGB: -1, enforceEager: "yes", extraArgs: --port}
- source: hf://o/with-links
  access: {followLinks: [/srv]}
- source: file:///srv/drop
  access: {followLinks: [srv/cache, /srv/../etc, 3], follow: all}
- source: gs://bucket/access
  access: {addressing: virtual, unsigned: "yes", requesterPays: 1, caBundle: ca.pem, insecure: x, etagIsDigest: false, headerTimeout: 1s}
- source: s3://bucket/paid
  access: {addressing: dns, unsigned: true, requesterPays: true, caBundle: /etc/ssl/../ca.pem, etagIsDigest: "no"}
- just a string
- name: nothing-else
store: {quota: lots, reserve: 120%}
pull: {concurrentModels: 0, maxRate: -5}
gpu: {leakAbove: some, leaks: 1}
measure: {enabled: maybe, port: 65536, trustedNamespaces: [team-a, Team_B, 7], ports: []}
scrub: {rate: 0, cycle: 7d, every: 1h}
ram: {budget: 100%, rate: fast}
volume: {mode: readonly, leaseDuration: 1s}
intervals: {Observe: 5s, retryMin: 1h, heartbeat: 0s}
modles: []
`))
	if err == nil {
		t.Fatal("a configuration full of mistakes was accepted")
	}
	for _, secret := range []string{"abcdefghijklmnop", "hunter2"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows the secret %s", secret)
		}
	}
	_, shared := ParseConfig([]byte("models: []\nvolume: {mode: shared}"))
	if shared == nil || !strings.Contains(shared.Error(), "volume.namespace") {
		t.Errorf("a shared volume without a place for its lease: %v", shared)
	}
	_, hasty := ParseConfig([]byte("models: []\nvolume: {mode: shared, namespace: n}\nintervals: {leave: 1m}"))
	if hasty == nil || !strings.Contains(hasty.Error(), `intervals.leave: "1m0s"`) {
		t.Errorf("a shared volume whose files go before others have looked: %v", hasty)
	}
	golden(t, "mistakes.txt", err.Error()+"\n")
}

func TestConfigRefusesWholeFiles(t *testing.T) {
	for name, text := range map[string]string{
		"empty":          "",
		"no models":      "pull: {jobs: 3}",
		"models is null": "models:",
		"a list":         "- models",
		"no YAML":        "models: [",
		"twice":          "models: []\nmodels: []",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseConfig([]byte(text)); err == nil {
				t.Errorf("%q was accepted: it would read as: hold nothing", text)
			}
		})
	}
}

func TestLoadConfigFallsBackToTheLastGoodOne(t *testing.T) {
	dir := t.TempDir()
	file, kept := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "last.yaml")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(file, "models: nonsense")
	if _, err := LoadConfig(file, kept); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("without a last good one, the file's mistakes should be told, got %v", err)
	}
	write(kept, "models: [{source: file:///a}]")
	cfg, err := LoadConfig(file, kept)
	if err != nil || len(cfg.Models) != 1 || cfg.Models[0].Name != "a" {
		t.Errorf("the last good one should be in force, got %+v, %v", cfg.Models, err)
	}
	write(file, "models: [{source: file:///b}]")
	if cfg, err = LoadConfig(file, kept); err != nil || cfg.Models[0].Name != "b" {
		t.Errorf("a good file should be in force, got %+v, %v", cfg.Models, err)
	}
}

func TestRedact(t *testing.T) {
	for in, secret := range map[string]string{
		"token hf_AbCdEf012345 refused":                      "AbCdEf012345",
		"get https://u:p4ss@host/x: 403":                     "p4ss",
		"get https://cdn/x?X-Amz-Signature=deadbeef&y=1":     "deadbeef",
		"get https://cdn/x?Expires=1&Signature=abc123~&Key=": "abc123",
		"header Authorization: s3cr3t":                       "s3cr3t",
	} {
		if got := redact(in); strings.Contains(got, secret) {
			t.Errorf("redact(%q) = %q", in, got)
		}
	}
	plain := "pull hf://Qwen/Qwen2.5@main: refused by the source: 404"
	if got := redact(plain); got != plain {
		t.Errorf("redact changed %q to %q", plain, got)
	}
}
