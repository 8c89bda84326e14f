package serving

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/stoker-project/stoker/test/charts"
)

// update has TestFitFigures write what it makes.
var update = flag.Bool("update", false, "write the figures of stoker fit into docs/autoscaling.md")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The release that the tests are about.
const (
	namespace  = "serving"
	release    = "qwen"
	deployment = "qwen-vllm"
	model      = "qwen2.5-7b-instruct"
	served     = "Qwen/Qwen2.5-7B-Instruct"
)

// monitored has everything that Prometheus and Grafana get.
const monitored = `
model: {name: ` + model + `, servedName: ` + served + `}
autoscaling: {kind: keda}
monitoring:
  podMonitor: {enabled: true}
  rules: {enabled: true}
  dashboards: {enabled: true}
`

// monitoredAgents is the same of charts/stoker.
const monitoredAgents = `
monitoring:
  podMonitor: {enabled: true}
  rules: {enabled: true}
  dashboard: {enabled: true}
`

// renderMonitored renders both charts with all that is monitored.
func renderMonitored(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	agents, err := charts.Release{Chart: charts.Stoker, Name: "stoker", Namespace: "stoker-system", Values: []byte(monitoredAgents)}.Objects()
	if err != nil {
		t.Fatal(err)
	}
	return append(render(t, monitored), agents...)
}

func render(t *testing.T, values string) []*unstructured.Unstructured {
	t.Helper()
	objs, err := charts.Release{Chart: charts.VLLM, Name: release, Namespace: namespace, Values: []byte(values)}.Objects()
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

// start starts a Prometheus with the chart's rules, or skips the test where
// there is none.
func start(t *testing.T, objs []*unstructured.Unstructured) *Prometheus {
	t.Helper()
	rules, err := RulesFile(objs)
	if err != nil {
		t.Fatal(err)
	}
	p, err := StartPrometheus(t.Context(), t.TempDir(), "", rules)
	if errors.Is(err, ErrNoPrometheus) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func find(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("no %s on the PATH", program)
	}
	return path
}

// buildStoker makes the real executable.
func buildStoker(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "stoker")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "disable_grpc_modules,grpcnotrace", "-ldflags", "-extldflags=-Wl,-z,lazy", "-o", binary, "./cmd/stoker")
	build.Dir = repository(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build stoker: %v\n%s", err, out)
	}
	return binary
}

// repository is the root folder.
func repository(t *testing.T) string {
	t.Helper()
	dir, err := charts.Dir(charts.VLLM)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(filepath.Dir(dir))
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
