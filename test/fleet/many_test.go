package fleet

import (
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

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/fleet"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

const (
	manyNode  = "gpu-many"
	mostWarm  = 500
	manyCold  = 12
	reader    = "reader" // may read Leases as well
	perModel  = 300      // most bytes of labels and managedFields for a name of 20 characters
	annotated = 16_000   // most bytes of the annotation
)

// manyName is 20 characters long, about as long as names are.
func manyName(i int) string { return fmt.Sprintf("llama-3.1-8b-it-%04d", i) }

// testMany runs the real agent with up to 500 warm models, and some that fail: each
// label counts as what it is, what the Node has no room for is in the Lease, and the
// sizes are those that docs/fleet.md states.
func (f *fixture) testMany() {
	f.upgradeToLong()
	f.addNode(manyNode, nil, nil)
	m := f.startMany()
	for _, n := range []int{50, 200, mostWarm} {
		m.list(n)
		f.waitAllWarm(n)
		f.measure(n)
	}
	f.Run("without the right to read Leases", func(t *testing.T) { f.with(t).manyByLabels() })
	f.Run("with it", func(t *testing.T) { f.with(t).manyByLease() })
	m.stop()
}

// upgradeToLong gives the agents the right to write Leases, and one account that to read
// them.
func (f *fixture) upgradeToLong() {
	f.Helper()
	var values strings.Builder
	values.WriteString("models:\n")
	for i := range 21 {
		fmt.Fprintf(&values, "- {name: m%d, source: 'hf://o/m%d'}\n", i, i)
	}
	objs, err := charts.Render([]byte(values.String()), "rel", namespace)
	if err != nil {
		f.Fatal(err)
	}
	if err := charts.Apply(f.Context(), f.cluster.RESTConfig(), objs); err != nil {
		f.Fatal(err)
	}
	ctx, client := f.Context(), f.cluster.Client()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: reader}}
	_, err = client.CoreV1().ServiceAccounts(namespace).Create(ctx, sa, metav1.CreateOptions{})
	subject := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: reader}}
	_, err2 := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: reader}, Subjects: subject,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: viewer},
	}, metav1.CreateOptions{})
	_, err3 := client.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: reader},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get", "list"}}},
	}, metav1.CreateOptions{})
	_, err4 := client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: reader}, Subjects: subject,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: reader},
	}, metav1.CreateOptions{})
	if err := errors.Join(err, err2, err3, err4); err != nil {
		f.Fatal(err)
	}
}

// manyAgent is an agent whose list grows.
type manyAgent struct {
	f              *fixture
	config, source string
	stop           func()
}

func (m *manyAgent) list(warm int) {
	m.f.Helper()
	var b strings.Builder
	b.WriteString("models:\n")
	for i := range warm {
		fmt.Fprintf(&b, "- {name: %s, source: 'file://%s'}\n", manyName(i), m.source)
	}
	for i := range manyCold {
		fmt.Fprintf(&b, "- {name: zz-missing-%02d, source: 'file:///nowhere/%s'}\n", i, strings.Repeat("far/", 20))
	}
	b.WriteString("pull: {concurrentModels: 8}\nstatus: {namespace: " + namespace + ", lease: " + account + "-status}" + strings.Replace(intervals, "retryMax: 2s", "retryMax: 10m", 1))
	next := m.config + ".next"
	if err := errors.Join(os.WriteFile(next, []byte(b.String()), 0o644), os.Rename(next, m.config)); err != nil {
		m.f.Fatal(err)
	}
}

func (f *fixture) startMany() *manyAgent {
	f.Helper()
	dir := f.TempDir()
	m := &manyAgent{f: f, config: filepath.Join(dir, "config.yaml"), source: filepath.Join(dir, "Tiny")}
	tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: 1, Bare: true})
	if err != nil {
		f.Fatal(err)
	}
	for path, content := range tree {
		data, err := io.ReadAll(content.Reader())
		if err != nil {
			f.Fatal(err)
		}
		target := filepath.Join(m.source, filepath.FromSlash(path))
		if err := errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, data, 0o644)); err != nil {
			f.Fatal(err)
		}
	}
	m.list(1)
	kubeconfig, err := f.cluster.AgentKubeconfig(f.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: account, Node: manyNode, Pod: "agent-" + manyNode})
	if err != nil {
		f.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		f.Fatal(err)
	}
	cmd := exec.Command(f.binary, "agent", "--config", m.config, "--store", filepath.Join(dir, "store"), "--node-name", manyNode, // ended by SIGTERM below
		"--gpus", "simulated:dgxh200", "--kubeconfig", kubeconfig, "--listen", "")
	cmd.Stderr = log
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		f.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ended := false
	m.stop = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended: done says how
		select {
		case err := <-done:
			if err != nil {
				f.Errorf("the agent: %v", err)
			}
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			f.Errorf("the agent does not end: %v", <-done)
		}
		if f.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			f.Logf("%s", text[max(0, len(text)-8000):])
		}
	}
	f.Cleanup(m.stop)
	return m
}

// waitAllWarm waits until n models are warm, fit, and what failed is told.
func (f *fixture) waitAllWarm(n int) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), 4*time.Minute)
	defer cancel()
	err := cluster.WaitFor(ctx, fmt.Sprintf("%d models to be warm", n), func(ctx context.Context) (bool, error) {
		fits := 0
		for k, v := range f.node(ctx, manyNode).Labels {
			if strings.HasPrefix(k, agent.FitsPrefix) && v == "8" {
				fits++
			}
		}
		if fits == n {
			return true, nil
		}
		return false, fmt.Errorf("%d fit", fits)
	})
	if err != nil {
		f.Fatal(err)
	}
}

// measure holds the Node against the limits.
func (f *fixture) measure(n int) {
	f.Helper()
	node := f.node(f.Context(), manyNode)
	annotation := node.Annotations[agent.StatusAnnotation]
	var labels, managed int
	for k, v := range node.Labels {
		if strings.Contains(k, "stoker.dev/") {
			labels += len(k) + len(v) + len(`"":"",`)
		}
	}
	for _, e := range node.ManagedFields {
		if e.Manager == agent.FieldManager {
			managed += len(e.FieldsV1.GetRawBytes())
		}
	}
	whole, err := json.Marshal(node)
	if err != nil {
		f.Fatal(err)
	}
	var said agent.NodeStatus
	if err := json.Unmarshal([]byte(annotation), &said); err != nil {
		f.Fatal(err)
	}
	text, err := f.stored(said)
	if err != nil {
		f.Fatal(err)
	}
	f.Logf("%d warm models: the Node %d B; labels %d B, managedFields %d B, together %d B a model; annotation %d B with %d models, %d omitted; Lease %d B",
		n, len(whole), labels, managed, (labels+managed)/n, len(annotation), len(said.Models), said.Omitted, len(text))
	if len(annotation) > annotated {
		f.Errorf("the annotation has %d bytes", len(annotation))
	}
	if each := (labels + managed) / n; each > perModel {
		f.Errorf("labels cost %d bytes a model", each)
	}
}

// stored is what the Lease holds that the annotation names; empty if it names none.
func (f *fixture) stored(said agent.NodeStatus) (string, error) {
	l, ok := agent.ParseStatusLease(said.More)
	if !ok {
		if said.Omitted > 0 {
			return "", fmt.Errorf("%d models are nowhere: %q", said.Omitted, said.More)
		}
		return "", nil
	}
	lease, err := f.cluster.Client().CoordinationV1().Leases(l.Namespace).Get(f.Context(), l.Name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return lease.Annotations[agent.StatusAnnotation], nil
}

// manyByLabels: an account that may list Nodes and no more sees what is warm.
func (f *fixture) manyByLabels() {
	all := f.manyStatus()
	for i := range mostWarm {
		name := manyName(i)
		e, err := all.Explain(manyNode, name)
		if err != nil || !e.Warm || !strings.Contains(e.Why, "is warm on "+manyNode) {
			f.Fatalf("%s: %v, %v", name, e.Why, err)
		}
	}
	for _, i := range []int{0, 77, 250, mostWarm - 1} {
		out, _ := f.stoker(0, f.viewer, "explain", manyNode, manyName(i))
		if !strings.Contains(out, "is warm on "+manyNode) || !strings.Contains(out, "8 replicas could start here now") || strings.Contains(out, "does not know") {
			f.Errorf("explain %s:\n%s", manyName(i), out)
		}
	}
	out, _ := f.stoker(0, f.viewer, "explain", manyNode, "zz-missing-00")
	if !strings.Contains(out, "left out of the annotation") && !strings.Contains(out, "/nowhere/") {
		f.Errorf("explain of a cold one:\n%s", out)
	}
	f.manyCounts(f.viewer, mostWarm)
}

// manyByLease: one that may read Leases as well sees everything, texts in full.
func (f *fixture) manyByLease() {
	kubeconfig := f.kubeconfig(reader)
	for i := range manyCold {
		out, _ := f.stoker(0, kubeconfig, "explain", manyNode, fmt.Sprintf("zz-missing-%02d", i))
		if !strings.Contains(out, "/nowhere/") || strings.Contains(out, "left out") {
			f.Errorf("explain of a cold one:\n%s", out)
		}
		if i == 2 {
			break
		}
	}
	out, _ := f.stoker(0, kubeconfig, "explain", manyNode, manyName(mostWarm-1))
	if !strings.Contains(out, "8 replicas could start here now") || !strings.Contains(out, "file://") {
		f.Errorf("explain of a warm one:\n%s", out)
	}
	f.manyCounts(kubeconfig, mostWarm+manyCold)
}

// manyCounts holds what `stoker status` counts.
func (f *fixture) manyCounts(kubeconfig string, models int) {
	f.Helper()
	out, _ := f.stoker(0, kubeconfig, "status", "--node", manyNode, "-o", "json")
	var got fleet.Fleet
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		f.Fatal(err)
	}
	warm := 0
	for _, m := range got.Models {
		if m.Warm == 1 && m.Wanted == 1 && m.Fits == 8 {
			warm++
		}
	}
	if warm != mostWarm || len(got.Models) < models {
		f.Errorf("status counts %d warm of %d models, want %d of %d", warm, len(got.Models), mostWarm, models)
	}
	if got.Nodes[0].OmittedModels > 0 != (models == mostWarm) {
		f.Errorf("%d models are omitted", got.Nodes[0].OmittedModels)
	}
	table, _ := f.stoker(0, kubeconfig, "status", "--model", manyName(mostWarm-1))
	if !strings.Contains(table, "1 of 1") {
		f.Errorf("status of one model:\n%s", table)
	}
}

func (f *fixture) manyStatus() *fleet.Fleet {
	f.Helper()
	return fleet.Read([]corev1.Node{*f.node(f.Context(), manyNode)}, time.Now())
}
