package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/fleet"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

const (
	namespace = "stoker-system"
	account   = "rel-stoker"
	viewer    = "viewer"
	intervals = `
store: {reserve: "0"}
intervals: {observe: 200ms, labelWrites: 200ms, progress: 1s, gpu: 1s, gpuRise: 1s, verify: 500ms, retryMin: 200ms, retryMax: 2s, resync: 1s, timeout: 5s}
`
)

// fixture is a cluster, the binary, and an account that may list nodes.
type fixture struct {
	*testing.T
	cluster *cluster.Cluster
	binary  string
	viewer  string // a kubeconfig
}

func TestFleet(t *testing.T) {
	f := &fixture{T: t, binary: build(t)}
	var err error
	if f.cluster, err = cluster.Start(t.Context(), cluster.Options{Log: os.Stderr}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.cluster.Stop(); err != nil {
			t.Error(err)
		}
	})
	f.setup()
	f.addNode("gpu-1", nil, nil)
	stop := f.startAgent("gpu-1")
	f.waitWarm("gpu-1", "tiny")
	// As the agent leaves it: its word stays, and nobody puts anything right.
	stop()

	f.addNode("gpu-2", nil, nil)
	f.addNode("gpu-3", map[string]string{agent.WarmPrefix + "tiny": "disk"}, nil)
	f.addNode("gpu-4", nil, map[string]string{agent.StatusAnnotation: `{"version":1,"models":[{"name":"tiny"`})
	f.addNode("gpu-5", nil, map[string]string{agent.StatusAnnotation: `{"version":99,"agent":"9.9.9","models":[{"name":"tiny","state":"thawing"}],"gpus":{"known":true,"count":8}}`})
	f.addNode("gpu-6", nil, map[string]string{agent.StatusAnnotation: f.node(t.Context(), "gpu-1").Annotations[agent.StatusAnnotation]})

	t.Run("status", func(t *testing.T) { f.with(t).testStatus() })
	t.Run("explain", func(t *testing.T) { f.with(t).testExplain() })
	t.Run("names that there are not", func(t *testing.T) { f.with(t).testUnknown() })
	t.Run("no right to list nodes", func(t *testing.T) { f.with(t).testForbidden() })
	t.Run("a label that somebody set", func(t *testing.T) { f.with(t).testForeignLabel() })
	t.Run("hundreds of models", func(t *testing.T) { f.with(t).testMany() })
}

func (f *fixture) with(t *testing.T) *fixture {
	t.Helper()
	g := *f
	g.T = t
	return &g
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "stoker")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", "disable_grpc_modules,grpcnotrace", "-buildvcs=false",
		"-ldflags", "-extldflags=-Wl,-z,lazy", "-o", binary, "./cmd/stoker")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the binary: %v\n%s", err, out)
	}
	return binary
}

// setup makes the chart's account, and one that may list nodes.
func (f *fixture) setup() {
	f.Helper()
	ctx, client := f.Context(), f.cluster.Client()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	objs, err := charts.Render([]byte("models: []"), "rel", namespace)
	if err != nil {
		f.Fatal(err)
	}
	if err := charts.Apply(ctx, f.cluster.RESTConfig(), objs); err != nil {
		f.Fatal(err)
	}
	f.addNode("elsewhere", nil, nil)
	for _, name := range []string{viewer, "nobody"} {
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := client.CoreV1().ServiceAccounts(namespace).Create(ctx, sa, metav1.CreateOptions{}); err != nil {
			f.Fatal(err)
		}
	}
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: viewer},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list"}}},
	}
	if _, err := client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: viewer},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: viewer},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: viewer}},
	}
	if _, err := client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	f.viewer = f.kubeconfig(viewer)
}

// kubeconfig is a token of an account.
func (f *fixture) kubeconfig(sa string) string {
	f.Helper()
	path, err := f.cluster.AgentKubeconfig(f.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: sa, Node: "elsewhere", Pod: sa})
	if err != nil {
		f.Fatal(err)
	}
	return path
}

func (f *fixture) addNode(name string, labels, annotations map[string]string) {
	f.Helper()
	spec := cluster.NodeSpec{Name: name, GPUs: 8, Labels: labels, Annotations: annotations}
	if name == "elsewhere" {
		spec.GPUs = 0
	}
	if _, err := f.cluster.AddNode(f.Context(), spec); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) node(ctx context.Context, name string) *corev1.Node {
	f.Helper()
	n, err := f.cluster.Client().CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return n
}

// startAgent runs the real agent with two models, one of which is not for this
// node, and one whose source is missing.
func (f *fixture) startAgent(node string) (stop func()) {
	f.Helper()
	dir := f.TempDir()
	source := filepath.Join(dir, "Tiny")
	tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: 1, Bare: true})
	if err != nil {
		f.Fatal(err)
	}
	for path, content := range tree {
		data, err := io.ReadAll(content.Reader())
		if err != nil {
			f.Fatal(err)
		}
		target := filepath.Join(source, filepath.FromSlash(path))
		if err := errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, data, 0o644)); err != nil {
			f.Fatal(err)
		}
	}
	config := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf("models: [{name: tiny, source: 'file://%s'}, {name: large, source: 'file:///nowhere/large', nodeSelector: {pool: large}}, "+
		"{name: missing, source: 'file:///nowhere/missing'}]%s", source, intervals)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		f.Fatal(err)
	}
	kubeconfig, err := f.cluster.AgentKubeconfig(f.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: account, Node: node, Pod: "agent-" + node})
	if err != nil {
		f.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(f.binary, "agent", "--config", config, "--store", filepath.Join(dir, "store"), "--node-name", node, // ended by SIGTERM below
		"--gpus", "simulated:dgxh200", "--kubeconfig", kubeconfig, "--listen", "")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended: done says how
		select {
		case err := <-done:
			if err != nil {
				f.Errorf("the agent: %v\n%s", err, log.String())
			}
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			f.Errorf("the agent does not end: %v\n%s", <-done, log.String())
		}
	}
	f.Cleanup(stop)
	return stop
}

// waitWarm waits until the node says that everything about it is settled: one
// model warm with fits, one failed.
func (f *fixture) waitWarm(node, model string) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), 60*time.Second)
	defer cancel()
	err := cluster.WaitFor(ctx, node+" to be warm", func(ctx context.Context) (bool, error) {
		n := f.node(ctx, node)
		said := n.Annotations[agent.StatusAnnotation]
		if n.Labels[agent.FitsPrefix+model] == "8" && strings.Contains(said, `"state":"failed"`) {
			return true, nil
		}
		return false, fmt.Errorf("labels are %v, the annotation is %s", n.Labels, said)
	})
	if err != nil {
		f.Fatal(err)
	}
}

// stoker runs the binary and holds its exit code.
func (f *fixture) stoker(code int, kubeconfig string, args ...string) (stdout, stderr string) {
	f.Helper()
	cmd := exec.CommandContext(f.Context(), f.binary, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		f.Fatal(err)
	}
	if got != code {
		f.Fatalf("stoker %s exits with %d, want %d\n%s%s", strings.Join(args, " "), got, code, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

func (f *fixture) testStatus() {
	text, errs := f.stoker(0, f.viewer, "status")
	if errs != "" {
		f.Errorf("standard error has %s", errs)
	}
	f.Logf("stoker status:\n%s", text)
	for _, want := range []string{
		"8 x NVIDIA H200", "MODEL", "tiny", "1 of 2", "label only", "labelsOnly", "unreadable", "newer", "noAgent", "labelsWithdrawn",
		"1 other node has neither a GPU nor anything of Stoker's.",
	} {
		if !strings.Contains(text, want) {
			f.Errorf("%q is not said", want)
		}
	}
	var got fleet.Fleet
	out, _ := f.stoker(0, f.viewer, "status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		f.Fatal(err)
	}
	words := map[string]fleet.Word{}
	for _, n := range got.Nodes {
		words[n.Name] = n.Word
	}
	for node, want := range map[string]fleet.Word{
		"gpu-1": fleet.WordSaid, "gpu-2": fleet.WordNone, "gpu-3": fleet.WordLabelsOnly, "gpu-4": fleet.WordUnreadable,
		"gpu-5": fleet.WordNewer, "gpu-6": fleet.WordWithdrawn,
	} {
		if words[node] != want {
			f.Errorf("the word of %s is %q, want %q", node, words[node], want)
		}
	}
	first := got.Nodes[0]
	if first.Name != "gpu-1" || len(first.Troubles) > 0 || first.GPUs.Count != 8 || first.GPUs.FreeBytes != 140<<30 || !first.Store.Known {
		f.Errorf("what a real agent said reads as %+v", first)
	}
	for _, m := range first.Models {
		switch m.Name {
		case "tiny":
			if !m.Warm || !m.Wanted || m.Fits == nil || *m.Fits != 8 || m.Need == nil || m.Need.GPUs != 1 || len(m.Disagreements) > 0 {
				f.Errorf("tiny is %+v", m)
			}
		case "large":
			if m.Warm || m.Wanted || m.State != agent.StateSkipped {
				f.Errorf("large is %+v", m)
			}
		case "missing":
			if m.Warm || !m.Wanted || m.State != agent.StateFailed || m.Reason == "" {
				f.Errorf("missing is %+v", m)
			}
		default:
			f.Errorf("there is a model %s", m.Name)
		}
	}
	one, _ := f.stoker(0, f.viewer, "status", "--node", "gpu-1", "--model", "tiny")
	if strings.Contains(one, "gpu-2") || strings.Contains(one, "missing") || !strings.Contains(one, "warm") {
		f.Errorf("one node and model are\n%s", one)
	}
}

func (f *fixture) testExplain() {
	for _, c := range []struct{ node, model, want string }{
		{"gpu-1", "tiny", "tiny is warm on gpu-1: revision "},
		{"gpu-1", "tiny", "8 replicas could start here now."},
		{"gpu-1", "large", "large is not held on gpu-1: its nodeSelector does not match this node's labels."},
		{"gpu-1", "missing", "the last attempt to bring missing to gpu-1 failed: "},
		{"gpu-2", "tiny", "no Stoker agent says anything there"},
		{"gpu-2", "tiny", "give it the label nvidia.com/gpu.present=true"},
		{"gpu-3", "tiny", "nobody vouches for it"},
		{"gpu-4", "tiny", "its annotation cannot be read (unexpected end of JSON input); there is no label"},
		{"gpu-5", "tiny", `calls tiny "thawing", a state that this stoker does not know`},
		{"gpu-6", "tiny", "all labels there were withdrawn"},
		{"elsewhere", "tiny", "no Stoker agent says anything there"},
	} {
		out, errs := f.stoker(0, f.viewer, "explain", c.node, c.model)
		if !strings.Contains(strings.ToLower(out), strings.ToLower(c.want)) || errs != "" {
			f.Errorf("explain %s %s does not say %q:\n%s%s", c.node, c.model, c.want, out, errs)
		}
		var e fleet.Explanation
		out, _ = f.stoker(0, f.viewer, "explain", c.node, c.model, "-o", "json")
		if err := json.Unmarshal([]byte(out), &e); err != nil || e.Why == "" || e.Do == "" || e.Warm != (c.node == "gpu-1" && c.model == "tiny") {
			f.Errorf("explain %s %s -o json: %v\n%s", c.node, c.model, err, out)
		}
	}
}

func (f *fixture) testUnknown() {
	for _, c := range []struct {
		want string
		args []string
	}{
		{`there is no node "gpu-11"; did you mean "gpu-1"?`, []string{"explain", "gpu-11", "tiny"}},
		{`no node says anything of a model "tinny"; did you mean "tiny"?`, []string{"explain", "gpu-1", "tinny"}},
		{`no node says anything of a model "tinny"; did you mean "tiny"?`, []string{"status", "--model", "tinny"}},
		{`there is no node "gpu1"; did you mean "gpu-1"?`, []string{"status", "--node", "gpu1"}},
	} {
		if out, errs := f.stoker(2, f.viewer, c.args...); out != "" || !strings.Contains(errs, c.want) {
			f.Errorf("%v: %s%s", c.args, out, errs)
		}
	}
}

func (f *fixture) testForbidden() {
	out, errs := f.stoker(1, f.kubeconfig("nobody"), "status")
	if out != "" || !strings.Contains(errs, "your account needs the right to list nodes") || strings.Count(errs, "\n") != 1 {
		f.Errorf("%s%s", out, errs)
	}
}

// Who set a label is what the API server has kept track of.
func (f *fixture) testForeignLabel() {
	patch := []byte(`{"metadata":{"labels":{"rev.stoker.dev/tiny":"0000"}}}`)
	if _, err := f.cluster.Client().CoreV1().Nodes().Patch(f.Context(), "gpu-1", types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "kubectl-label"}); err != nil {
		f.Fatal(err)
	}
	want := "label rev.stoker.dev/tiny is 0000 (set by kubectl-label), but the annotation says "
	for _, args := range [][]string{{"status"}, {"explain", "gpu-1", "tiny"}} {
		if out, _ := f.stoker(0, f.viewer, args...); !strings.Contains(out, want) {
			f.Errorf("%v does not say who set the label:\n%s", args, out)
		}
	}
}
