package placement

import (
	"context"
	"fmt"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// model is what all pods name.
const model = "llama"

// fixture is a cluster in which nothing runs yet.
type fixture struct {
	testing.TB
	cluster *cluster.Cluster
	client  kubernetes.Interface
	pods    *ledger
	binary  string // see build
}

func startCluster(tb testing.TB) *fixture {
	tb.Helper()
	c, err := cluster.Start(tb.Context(), cluster.Options{Log: os.Stderr})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Stop(); err != nil {
			tb.Error(err)
		}
	})
	f := &fixture{TB: tb, cluster: c, client: c.Client()}
	f.pods = startLedger(tb, c.Client())
	return f
}

// in is the fixture for a subtest.
func (f *fixture) in(tb testing.TB) *fixture {
	tb.Helper()
	return &fixture{TB: tb, cluster: f.cluster, client: f.client, pods: f.pods, binary: f.binary}
}

// ofPolicy is what of the chart concerns pods; agents and the sweeper stay
// away, they would only take room on the nodes.
func ofPolicy(obj *unstructured.Unstructured) bool {
	switch obj.GetKind() {
	case "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "PersistentVolume", "PersistentVolumeClaim":
		return true
	}
	return false
}

// release installs what the chart has for pods of one namespace, with these
// values of inject, and returns when it is in force there.
func (f *fixture) release(namespace, values string) {
	f.Helper()
	ctx := f.Context()
	f.namespace(namespace)
	objs, err := charts.Render(fmt.Appendf(nil, "namespaces: [%s]\ninject: %s\n", namespace, values), "rel-"+namespace, "stoker-system")
	if err != nil {
		f.Fatal(err)
	}
	var mine []*unstructured.Unstructured
	for _, obj := range objs {
		if ofPolicy(obj) {
			mine = append(mine, obj)
		}
	}
	if err := charts.Apply(ctx, f.cluster.RESTConfig(), mine); err != nil {
		f.Fatal(err)
	}
	err = cluster.WaitFor(ctx, "the policy to be in force in "+namespace, func(ctx context.Context) (bool, error) {
		p, err := f.client.CoreV1().Pods(namespace).Create(ctx, pod("probe"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && len(p.Spec.InitContainers) == 1 && p.Spec.InitContainers[0].Name == inject.Waiter, err
	})
	if err != nil {
		f.Fatal(err)
	}
	err = cluster.WaitFor(ctx, "the claim to be bound in "+namespace, func(ctx context.Context) (bool, error) {
		claim, err := f.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, inject.StoreVolume, metav1.GetOptions{})
		return err == nil && claim.Status.Phase == corev1.ClaimBound, err
	})
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) namespace(name string) {
	f.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := f.client.CoreV1().Namespaces().Create(f.Context(), ns, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	err := cluster.WaitFor(f.Context(), "the default account of "+name, func(ctx context.Context) (bool, error) {
		_, err := f.client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		f.Fatal(err)
	}
}

// pod is one vLLM replica, with one label and no other word of placement.
func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{agent.ModelLabel: model}}, Spec: podSpec()}
}

// podSpec takes an eighth of a node's GPUs, and a little less of the rest.
func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "vllm", Image: "vllm", Resources: share(1)}}}
}
