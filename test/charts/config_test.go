package charts

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// agentConfig is the rendered configuration as the agent reads it.
func agentConfig(t *testing.T, values []byte) agent.Config {
	t.Helper()
	content, err := AgentConfig(renderAll(t, values))
	if err != nil {
		t.Fatal(err)
	}
	config, err := agent.ParseConfig(content)
	if err != nil {
		t.Fatalf("the agent refuses the rendered configuration: %v\n%s", err, content)
	}
	return config
}

func TestAgentConfigNeedsAConfigMap(t *testing.T) {
	if _, err := AgentConfig(nil); err == nil {
		t.Error("found a configuration among no objects")
	}
}

// The chart writes every setting out, with the values that the agent would
// take by itself: reading values.yaml tells what will happen.
func TestDefaultConfigIsTheAgentsOwn(t *testing.T) {
	own, err := agent.ParseConfig([]byte("models: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := agentConfig(t, nil); !reflect.DeepEqual(got, own) {
		t.Errorf("the chart's defaults give %+v, the agent's are %+v", got, own)
	}
}

func TestFullConfigReachesTheAgent(t *testing.T) {
	got := agentConfig(t, fullValues(t))
	if len(got.Models) != 3 {
		t.Fatalf("want 3 models, got %+v", got.Models)
	}
	m := got.Models[0]
	serving := sizing.Serving{
		TensorParallel: 2, MaxModelLen: 1 << 20, GPUMemoryUtilization: 0.92, KVCacheDtype: "fp8", PipelineParallel: 2, MaxNumSeqs: 128,
		MaxNumBatchedTokens: 4096, EnforceEager: true, Quantization: "fp8", CPUOffloadGB: 1.5, Dtype: "float16",
	}
	if !reflect.DeepEqual(m.Serving, serving) {
		t.Errorf("serving reached the agent as %+v", m.Serving)
	}
	if m.Priority != 100 || m.Refresh != 90*time.Minute || m.Credentials != "team-a" || m.Access.Endpoint != "http://hub.example:8080/mirror" || m.NodeSelector["pool"] != "gpu" {
		t.Errorf("the first model reached the agent as %+v", m)
	}
	if !slices.Equal(m.Include, []string{"*.safetensors", "*.json"}) || !slices.Equal(m.Exclude, []string{"original/*"}) ||
		!slices.Equal(m.Also, []string{"original/"}) || m.FileFormat != "hf" {
		t.Errorf("the choice of files reached the agent as %q, %q, %q and %q", m.FileFormat, m.Also, m.Include, m.Exclude)
	}
	if got.Store.Quota != 500<<30 || got.Store.Reserve.Bytes != 100<<30 || got.Pull.MaxRate != 500<<20 || got.Pull.Jobs != 12 || got.Pull.ConcurrentModels != 1 || got.GPU.LeakAbove.Bytes != 4<<30 {
		t.Errorf("limits reached the agent as %+v, %+v and %+v", got.Store, got.Pull, got.GPU)
	}
	if s := got.Measure; !s.Enabled || s.Port != 9000 || !slices.Equal(s.TrustedNamespaces, []string{"serving"}) {
		t.Errorf("how replicas are measured reached the agent as %+v", s)
	}
	if !m.RAM || got.Models[1].RAM || got.RAM.Budget.Bytes != 64<<30 || got.RAM.Rate != 1<<30 {
		t.Errorf("what is held in memory reached the agent as %t and %+v", m.RAM, got.RAM)
	}
	if v := got.Volume; v.Mode != agent.VolumeShared || v.Namespace == "" || v.Lease == "stoker-store" || v.LeaseDuration != time.Minute {
		t.Errorf("the volume reached the agent as %+v", v)
	}
	defaults := agentConfig(t, nil)
	a, b := reflect.ValueOf(got.Intervals), reflect.ValueOf(defaults.Intervals)
	for i := range a.NumField() {
		if a.Field(i).Equal(b.Field(i)) {
			t.Errorf("interval %s is the default in spite of testdata/full-values.yaml", a.Type().Field(i).Name)
		}
	}
}

// The names that the chart shows and checks for duplicates are the agent's.
func TestModelNamesAreTheAgents(t *testing.T) {
	long := strings.Repeat("Long_Name.", 9) + "x"
	for _, source := range []string{
		"hf://Qwen/Qwen2.5-7B-Instruct",
		"hf://Qwen/Qwen2.5-7B-Instruct@refs/pr/1",
		"hf://GPT2@main",
		"hf://o/_Under_Score_",
		"hf://o/" + long,
		"hf://o/" + long + "@main",
		"s3://bucket",
		"s3://bucket/",
		"s3://bucket/a/b@c//",
		"gs://bucket/Weights of Llama",
		"s3://bucket/" + long + "/",
		"s3://bucket/a/Llama/model.safetensors",
		"gs://bucket/llama.gguf",
		"s3://bucket/a/pytorch_model.bin/",
		"s3://bucket/a.bin/b.pt",
		"gs://bucket/a/b.pth",
		"gs://bucket/a/b.PTH",
		"s3://bucket/a/.bin",
		"s3://bucket/a/bin",
		"s3://bucket/a/model.safetensors.v2",
		"s3://bucket.bin",
		"s3://bucket/" + long + "/model.bin",
		"hf://o/b.bin",
		"file:///srv/models/b.bin",
		"file:///srv/models/Tiny/",
		"file:///srv//models/../" + long,
		"file:///srv/modèle",
	} {
		parsed, err := fetcher.ParseSource(source)
		if err != nil {
			t.Fatal(err)
		}
		want, err := parsed.DeriveName()
		if err != nil {
			t.Fatal(err)
		}
		values, err := yaml.Marshal(map[string]any{"models": []any{map[string]any{"source": source}}})
		if err != nil {
			t.Fatal(err)
		}
		notes, err := Release{Chart: Stoker, Name: "rel", Namespace: "gpu-system", Values: values}.Notes()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(notes, "-L warm.stoker.dev/"+want+"\n") {
			t.Errorf("%s: the notes do not name the model %q:\n%s", source, want, notes)
		}
		if config := agentConfig(t, values); config.Models[0].Name != want {
			t.Errorf("%s: the agent reads the name %q, want %q", source, config.Models[0].Name, want)
		}
	}
}

// The schema takes the sources that the agent takes, and no others.
func TestSourcesAreTheAgents(t *testing.T) {
	for _, source := range []string{
		"hf://ORG/NAME", "hf://NAME", "hf://NAME@main", "hf://ORG/NAME@main", "hf://ORG/NAME@refs/pr/1", "hf://a/b@0123456789012345678901234567890123456789",
		"hf://o.r_g/na-me.x", "s3://bucket", "s3://bucket/", "s3://bucket/a/b/", "gs://bucket/a b", "file:///srv/models", "file:///x/../y",
		"", "ORG/NAME", "https://hub.example/ORG/NAME", "hf:/ORG/NAME", "HF://ORG/NAME", "hf://NAME.git", "hf://a--b", "hf://ORG/", "hf:///NAME", "hf://ORG/NAME/x",
		"hf://ORG/NAME@", "hf://ORG/NAME@/a", "hf://ORG/NAME@a/", "hf://ORG/NAME@a b", "hf://ORG/NAME@a:b", "hf://ORG/NAME@a..b", "hf://-a/b", "hf://a/b.", "hf://a/b--c",
		"hf://a b/c", "hf://" + strings.Repeat("a", 97) + "/b", "s3://", "s3:///prefix", "s3://a b", "s3://user@bucket/x", "s3://bucket//x", "s3://bucket/./x",
		"s3://bucket/../x", "gs://", "file://host/dir", "file://", "file:srv", "ftp://a/b", "s3://bucket/a\nb",
	} {
		_, want := fetcher.ParseSource(source)
		values, err := yaml.Marshal(map[string]any{"models": []any{map[string]any{"name": "a", "source": source}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, got := Render(values, "rel", "gpu-system"); (got == nil) != (want == nil) {
			t.Errorf("source %q: the chart says %v, the agent says %v", source, got, want)
		}
	}
}

// The schema takes the GPU specifications that the agent takes.
func TestGPUSpecsAreTheAgents(t *testing.T) {
	for _, spec := range []string{
		"none", "simulated:dgxa100", "simulated:dgxh100,free=2GiB", "simulated:dgxh200,free=500MiB,free.0=1.5GiB", "simulated:dgxb200,free.7=0",
		"simulated:l4", "simulated:a100-80gb,total=79GiB", "simulated:gb10,total.0=100GiB,free=1GiB", "simulated", "simulated:", "simulated:h300", "simulated:dgxh200,", "simulated:dgxh200,used=1GiB", "simulated:dgxh200,free=1Gi", "simulated:dgxh200,free=-1GiB",
		"simulated:dgxh200,free.x=1GiB", "simulated:dgxh200,free=", "simulated:dgxh200,free=1kiB", "NONE",
	} {
		reader, want := gpu.Open(spec)
		if want == nil {
			if err := reader.Close(); err != nil {
				t.Error(err)
			}
		}
		values, err := yaml.Marshal(map[string]any{"gpus": spec})
		if err != nil {
			t.Fatal(err)
		}
		if _, got := Render(values, "rel", "gpu-system"); (got == nil) != (want == nil) {
			t.Errorf("gpus %q: the chart says %v, the agent says %v", spec, got, want)
		}
	}
}

// Every setting that the schema takes, the agent takes. How two of them must
// relate (retryMin and retryMax) only the agent checks.
func TestSettingsAreTheAgents(t *testing.T) {
	for path, candidates := range map[string][]any{
		"store.quota":               {"", "1", "500Gi", "1.5Ti", "100G", "5k", "0", "0.5Gi", "1e3", "1m", "-1", "10%"},
		"store.reserve":             {"0%", "20%", "99.5%", "100%", "100Gi", "0", "5", "", "-1%", "150%"},
		"gpu.leakAbove":             {"0%", "5%", "99.5%", "100%", "2Gi", "0", "5", "", "-1%", "x"},
		"measure.enabled":           {true, false, "true"},
		"measure.port":              {1, 8000, 65535, 0, 65536, "8000"},
		"measure.trustedNamespaces": {[]string{}, []string{"a"}, []string{"a", "a"}, []string{""}, []string{"A"}, []string{"-a"}, []string{"a.b"}, "a"},
		"scrub.rate":                {"50Mi", "1G", "1", "0", "", "fast"},
		"scrub.cycle":               {"24h", "168h", "7d", "0s", ""},
		"ram.budget":                {"", "0%", "25%", "99.5%", "100%", "64Gi", "1.5Ti", "0", "-1Gi", "half"},
		"ram.rate":                  {"200Mi", "1G", "0", "", "fast"},
		"pull.maxRate":              {"", "500Mi", "1G", "0", "fast"},
		"pull.jobs":                 {1, 8, 0, -1, "8"},
		"pull.concurrentModels":     {1, 0},
		"intervals.observe":         {"1s", "500ms", "1h30m", "1.5s", "0s", "0.5s", "1", "1d", "-1s", ""},
		"intervals.retryMax":        {"10m", "5s"},
	} {
		section, key, _ := strings.Cut(path, ".")
		for _, candidate := range candidates {
			values, err := yaml.Marshal(map[string]any{
				"agent": map[string]any{section: map[string]any{key: candidate}}, "resources": map[string]any{"limits": nil},
			})
			if err != nil {
				t.Fatal(err)
			}
			objs, err := Render(values, "rel", "gpu-system")
			if err != nil {
				continue // the schema may be stricter than the agent: no test on a cluster is lost by that
			}
			content, err := AgentConfig(objs)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := agent.ParseConfig(content); err != nil {
				t.Errorf("%s: %v passes the schema, but the agent says %v", path, candidate, err)
			}
		}
	}
}

// What the agent holds in memory counts against its limit, which is raised by as
// much: so the agent itself allows all of the budget.
func TestMemoryLimitHoldsTheBudget(t *testing.T) {
	for _, c := range []struct{ limit, budget, want string }{
		{"2Gi", "", "2Gi"},
		{"2Gi", "0", "2Gi"},
		{"2Gi", "64Gi", "66Gi"},
		{"512Mi", "1.5Gi", "2Gi"},
		{"2G", "1G", "2862Mi"},
		{"2147483648", "1Gi", "3Gi"},
		{"2e3Mi", "1Gi", ""},
		{"null", "64Gi", "null"},
		{"null", "25%", "null"},
	} {
		values := fmt.Sprintf("{agent: {ram: {budget: '%s'}}, resources: {limits: {memory: %s}}}", c.budget, c.limit)
		objs, err := Render([]byte(values), "rel", "gpu-system")
		if c.want == "" {
			if err == nil {
				t.Errorf("a limit of %s was taken", c.limit)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", values, err)
			continue
		}
		var ds appsv1.DaemonSet
		find(t, objs, "DaemonSet", "gpu-system/rel-stoker", &ds)
		got, set := ds.Spec.Template.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory]
		if !set {
			if c.want != "null" {
				t.Errorf("%s: there is no limit", values)
			}
			continue
		}
		if want := resource.MustParse(c.want); c.want == "null" || got.Cmp(want) != 0 {
			t.Errorf("%s: the limit is %s, not %s", values, got.String(), c.want)
		}
		if asks := ds.Spec.Template.Spec.Containers[0].Resources.Requests[corev1.ResourceMemory]; asks.String() != "256Mi" {
			t.Errorf("%s: it asks for %s", values, asks.String())
		}
	}
}
