package charts

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/kube"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/test/cluster"
)

// Values of one release through its life; replicas are never named again once
// they are handed over.
const (
	fixedReplicas = leastVLLM + "replicas: 4\n"
	byHPA         = leastVLLM + "autoscaling: {kind: hpa}\n"
	byLargerHPA   = leastVLLM + "autoscaling: {kind: hpa, minReplicas: 6, maxReplicas: 9}\n"
	byKEDA        = leastVLLM + "autoscaling: {kind: keda}\n"
	byNobody      = leastVLLM
)

// A release with 4 live replicas gets an autoscaler, another one, and none, and
// is never smaller meanwhile: not the Deployment, and not its ReplicaSet. What
// the notes ask for is done, and where it is not, the replicas are lost, or the
// test would see nothing.
func TestAutoscalingKeepsReplicas(t *testing.T) {
	c := startCluster(t)
	createNamespaces(t, c.Client(), "privileged", "serving")
	applyCRDs(t, c)
	helm := kube.New(&genericclioptions.ConfigFlags{KubeConfig: &c.KubeconfigPath, Namespace: new("serving")})
	for _, tc := range []struct {
		name               string
		install, upgrade   applier
		handedOver, losing bool
	}{
		{name: "applied", install: serverSide(c), upgrade: serverSide(c), handedOver: true},
		{name: "helm", install: byHelm(helm, true), upgrade: byHelm(helm, true), handedOver: true},
		{name: "helm3", install: byHelm(helm, false), upgrade: byHelm(helm, true), handedOver: true},
		{name: "helm3-stays", install: byHelm(helm, false), upgrade: byHelm(helm, false), handedOver: true, losing: true},
		{name: "applied-rashly", install: serverSide(c), upgrade: serverSide(c), losing: true},
		{name: "helm-rashly", install: byHelm(helm, true), upgrade: byHelm(helm, true), losing: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := &released{T: t, cluster: c, name: tc.name}
			r.apply(tc.install, fixedReplicas)
			least := r.watch(4)
			r.apply(tc.upgrade, fixedReplicas)
			if tc.handedOver {
				r.handOver()
			}
			r.apply(tc.upgrade, byHPA)
			if tc.losing {
				r.waitFor("the replicas to be lost", func(d *appsv1.Deployment) bool { return d.Status.Replicas == 1 })
				return
			}
			r.waitForHPA()
			for _, values := range []string{byKEDA, byNobody, byHPA} {
				r.apply(tc.upgrade, values)
				r.waitFor("the upgrade", func(d *appsv1.Deployment) bool { return d.Status.ObservedGeneration == d.Generation })
			}
			r.apply(tc.upgrade, byLargerHPA)
			r.waitFor("the autoscaler to add replicas", func(d *appsv1.Deployment) bool { return d.Status.Replicas == 6 })
			for _, values := range []string{byKEDA, byNobody} {
				r.apply(tc.upgrade, values)
				r.waitFor("as many replicas as before", func(d *appsv1.Deployment) bool {
					return d.Status.ObservedGeneration == d.Generation && *d.Spec.Replicas == 6 && d.Status.Replicas == 6
				})
			}
			if got := least(); got != 4 {
				t.Errorf("there were %d replicas at the least, want 4", got)
			}
		})
	}
}

// applier brings a release from the manifests that it had (nil: none) to others.
type applier func(ctx context.Context, had, want []*unstructured.Unstructured) error

// serverSide is what kubectl apply --server-side --force-conflicts --prune does.
func serverSide(c *cluster.Cluster) applier {
	return func(ctx context.Context, had, want []*unstructured.Unstructured) error {
		if err := Apply(ctx, c.RESTConfig(), want); err != nil {
			return err
		}
		return deleteOthers(ctx, c, had, want)
	}
}

// byHelm is what helm upgrade does with rendered manifests, with and without
// --server-side; the releases of Helm 3 were made without.
func byHelm(client *kube.Client, ssa bool) applier {
	return func(_ context.Context, had, want []*unstructured.Unstructured) error {
		current, err := helmObjects(client, had)
		if err != nil {
			return err
		}
		target, err := helmObjects(client, want)
		if err != nil {
			return err
		}
		if had == nil {
			_, err = client.Create(target, kube.ClientCreateOptionServerSideApply(ssa, false))
			return err
		}
		_, err = client.Update(current, target, kube.ClientUpdateOptionServerSideApply(ssa, false), kube.ClientUpdateOptionUpgradeClientSideFieldManager(ssa))
		return err
	}
}

func helmObjects(client *kube.Client, objs []*unstructured.Unstructured) (kube.ResourceList, error) {
	var text strings.Builder
	for _, obj := range objs {
		content, err := yaml.Marshal(obj.Object)
		if err != nil {
			return nil, err
		}
		text.WriteString("---\n")
		text.Write(content)
	}
	return client.Build(strings.NewReader(text.String()), false)
}

// deleteOthers deletes what is no longer wanted: of charts/vllm, an autoscaler.
func deleteOthers(ctx context.Context, c *cluster.Cluster, had, want []*unstructured.Unstructured) error {
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	resources := map[string]schema.GroupVersionResource{
		"HorizontalPodAutoscaler": {Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
		"ScaledObject":            {Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"},
	}
	for _, obj := range had {
		resource, scales := resources[obj.GetKind()]
		stays := slices.ContainsFunc(want, func(other *unstructured.Unstructured) bool { return other.GetKind() == obj.GetKind() })
		if !scales || stays {
			continue
		}
		if err := client.Resource(resource).Namespace(obj.GetNamespace()).Delete(ctx, obj.GetName(), metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// released is one release of charts/vllm on the cluster.
type released struct {
	*testing.T
	cluster *cluster.Cluster
	name    string
	had     []*unstructured.Unstructured
}

func (r *released) release(values string) Release {
	return Release{Chart: VLLM, Name: r.name, Namespace: "serving", Values: []byte(values + "fullnameOverride: " + r.name + "\n")}
}

func (r *released) apply(by applier, values string) {
	r.Helper()
	want, err := r.release(values).Objects()
	if err != nil {
		r.Fatal(err)
	}
	if err := by(r.Context(), r.had, want); err != nil {
		r.Fatalf("upgrade to %s: %v", values, err)
	}
	r.had = want
}

// watch waits for the replicas and returns what deletes the Deployment and gives
// the least number of them that it asked for or had until then.
func (r *released) watch(replicas int32) func() int32 {
	r.Helper()
	since := ""
	r.waitFor("all replicas", func(d *appsv1.Deployment) bool {
		since = d.ResourceVersion
		return d.Status.Replicas == replicas
	})
	deployments := r.cluster.Client().AppsV1().Deployments("serving")
	w, err := deployments.Watch(r.Context(), metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", r.name).String(), ResourceVersion: since,
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(w.Stop)
	least := make(chan int32, 1)
	go func() {
		defer close(least)
		fewest := replicas
		for event := range w.ResultChan() {
			d, ok := event.Object.(*appsv1.Deployment)
			if !ok {
				return
			}
			fewest = min(fewest, *d.Spec.Replicas, d.Status.Replicas)
			if event.Type == watch.Deleted {
				least <- fewest
				return
			}
		}
	}()
	return func() int32 {
		if err := deployments.Delete(r.Context(), r.name, metav1.DeleteOptions{}); err != nil {
			r.Fatal(err)
		}
		fewest, ok := <-least
		if !ok {
			r.Fatal("the watch ended before the Deployment did")
		}
		return fewest
	}
}

func (r *released) waitFor(what string, cond func(*appsv1.Deployment) bool) {
	r.Helper()
	err := cluster.WaitFor(r.Context(), what, func(ctx context.Context) (bool, error) {
		d, err := r.cluster.Client().AppsV1().Deployments("serving").Get(ctx, r.name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if !cond(d) {
			return false, fmt.Errorf("%d replicas wanted, %d there", *d.Spec.Replicas, d.Status.Replicas)
		}
		return true, nil
	})
	if err != nil {
		r.Fatal(err)
	}
}

// waitForHPA waits until the autoscaler has looked at the Deployment.
func (r *released) waitForHPA() {
	r.Helper()
	err := cluster.WaitFor(r.Context(), "the autoscaler to look", func(ctx context.Context) (bool, error) {
		hpa, err := r.cluster.Client().AutoscalingV2().HorizontalPodAutoscalers("serving").Get(ctx, r.name, metav1.GetOptions{})
		return err == nil && hpa.Status.CurrentReplicas > 0, err
	})
	if err != nil {
		r.Fatal(err)
	}
}

// handOver does what the notes of a release with replicas say, with the very
// document that they pipe into kubectl.
func (r *released) handOver() {
	r.Helper()
	notes, err := r.release(fixedReplicas).Notes()
	if err != nil {
		r.Fatal(err)
	}
	_, document, found := strings.Cut(notes, "printf '")
	document, command, ended := strings.Cut(document, "'")
	if !found || !ended || !strings.HasPrefix(strings.Join(strings.Fields(command), " "), `\ "$(kubectl --namespace serving get deployment `+r.name+
		` -o jsonpath={.spec.replicas})" | kubectl --namespace serving apply --server-side --field-manager=replicas --filename - `) {
		r.Fatalf("the notes have another step than this test:\n%s", notes)
	}
	deployments := r.cluster.Client().AppsV1().Deployments("serving")
	d, err := deployments.Get(r.Context(), r.name, metav1.GetOptions{})
	if err != nil {
		r.Fatal(err)
	}
	body := strings.Replace(document, "%s", strconv.Itoa(int(*d.Spec.Replicas)), 1)
	if _, err := deployments.Patch(r.Context(), r.name, types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: "replicas"}); err != nil {
		r.Fatal(err)
	}
}
