//go:build e2e

package serving

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// feeling is what the replicas of one Deployment report together.
type feeling struct {
	// queue is that of all replicas together; cache is each one's.
	queue, cache float64
	names        Names
}

// world is a control plane with KEDA, a Prometheus that scrapes every pod that
// is ready, and somebody who plays the kubelets: no container runs.
type world struct {
	*testing.T
	cluster  *cluster.Cluster
	scaled   dynamic.ResourceInterface
	replicas *Replicas
	rules    []byte
	promDir  string
	promAddr string
	logs     []string

	mu       sync.Mutex
	prom     *Prometheus // nil while it is away
	feelings map[string]feeling
	first    map[string]string // the oldest ready pod of each Deployment
}

// newWorld starts all of it, with Prometheus at this address. Without STOKER_E2E_KEDA, which make e2e-serving
// sets, there is nothing to start.
func newWorld(t *testing.T, prometheus string, rules []byte) *world {
	t.Helper()
	binaries := os.Getenv("STOKER_E2E_KEDA")
	if binaries == "" {
		t.Fatal("STOKER_E2E_KEDA does not say where KEDA's programs are; make e2e-serving builds them and sets it")
	}
	w := &world{T: t, replicas: NewReplicas(), rules: rules, promAddr: prometheus, promDir: t.TempDir(), feelings: map[string]feeling{}, first: map[string]string{}}
	t.Cleanup(w.replicas.Close)
	var err error
	if w.cluster, err = cluster.Start(t.Context(), cluster.Options{Log: os.Stderr}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.must(w.cluster.Stop()) })
	w.startPrometheus()
	t.Cleanup(w.stopPrometheus)
	keda, err := StartKEDA(t.Context(), w.cluster, binaries, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w.logs = keda.Logs
	t.Cleanup(func() { w.must(keda.Stop()) })
	client, err := dynamic.NewForConfig(w.cluster.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	w.scaled = client.Resource(schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"}).Namespace(namespace)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := w.cluster.Client().CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var playing sync.WaitGroup
	playing.Go(func() { w.playKubelets(ctx) })
	t.Cleanup(func() {
		cancel()
		playing.Wait()
		if t.Failed() {
			w.show()
		}
	})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Error(err)
	}
}

// show says what there was when a test failed.
func (w *world) show() {
	ctx := context.WithoutCancel(w.Context())
	list, err := w.scaled.List(ctx, metav1.ListOptions{})
	if err == nil {
		for _, so := range list.Items {
			w.Logf("ScaledObject %s: %v", so.GetName(), so.Object["status"])
		}
	}
	hpas, err := w.cluster.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace).List(ctx, metav1.ListOptions{})
	if err == nil {
		for _, hpa := range hpas.Items {
			w.Logf("HPA %s: %+v", hpa.Name, hpa.Status)
		}
	}
	for _, path := range w.logs {
		content, err := os.ReadFile(path)
		if err == nil {
			lines := strings.Split(string(content), "\n")
			w.Logf("the end of %s:\n%s", path, strings.Join(lines[max(0, len(lines)-30):], "\n"))
		}
	}
}

func (w *world) startPrometheus() {
	w.Helper()
	p, err := StartPrometheus(w.Context(), w.promDir, w.promAddr, w.rules)
	if err != nil {
		w.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prom = p
}

func (w *world) stopPrometheus() {
	w.mu.Lock()
	p := w.prom
	w.prom = nil
	w.mu.Unlock()
	if p != nil {
		w.must(p.Stop())
	}
}

// feel changes what the replicas of a Deployment report from now on.
func (w *world) feel(deployment string, f feeling) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.feelings[deployment] = f
}

// playKubelets runs until ctx ends: a pod that is bound becomes ready and is
// scraped, one that is to go is gone.
func (w *world) playKubelets(ctx context.Context) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		if err := w.play(ctx); err != nil && ctx.Err() == nil {
			w.Logf("play the kubelets: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (w *world) play(ctx context.Context) error {
	pods := w.cluster.Client().CoreV1().Pods(namespace)
	list, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	first := map[string]*corev1.Pod{}
	there := map[string]bool{}
	var targets []Target
	var errs []error
	for i := range list.Items {
		pod := &list.Items[i]
		if pod.DeletionTimestamp != nil {
			errs = append(errs, pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
			continue
		}
		if pod.Spec.NodeName == "" {
			continue
		}
		if pod.Status.Phase != corev1.PodRunning {
			pod.Status.Phase = corev1.PodRunning
			now := metav1.Now()
			pod.Status.StartTime = &now
			pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now})
			if _, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		owner := pod.Labels["app.kubernetes.io/instance"]
		if first[owner] == nil || pod.CreationTimestamp.Before(&first[owner].CreationTimestamp) {
			first[owner] = pod
		}
		there[pod.Name] = true
		w.replicas.Set(pod.Name, func() string { return w.page(owner, pod.Name) })
		targets = append(targets, Target{
			Address: w.replicas.Address(), Path: "/" + pod.Name + "/metrics",
			// As a PodMonitor has them. What a release of the chart serves has its own name.
			Labels: map[string]string{"namespace": namespace, "pod": pod.Name, "container": "vllm", "deployment": owner},
		})
	}
	w.replicas.Keep(there)
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.first)
	for owner, pod := range first {
		w.first[owner] = pod.Name
	}
	if w.prom != nil {
		errs = append(errs, w.prom.Scrape(targets))
	}
	return errors.Join(errs...)
}

// page is what a pod reports. The whole queue is at the oldest one: what is
// scraped a second apart would else not sum up to it while pods come.
func (w *world) page(owner, pod string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.feelings[owner]
	load := Load{KVCache: f.cache}
	if w.first[owner] == pod {
		load.Waiting = f.queue
	}
	return Page(f.names, served, load)
}

// deployed is how many replicas a Deployment has been told to have.
func (w *world) deployed(ctx context.Context, name string) (int, error) {
	d, err := w.cluster.Client().AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	return int(*d.Spec.Replicas), nil
}

// waitReplicas waits until a Deployment is told to have so many replicas, and
// says how long that took.
func (w *world) waitReplicas(name string, want int, limit time.Duration) time.Duration {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), limit)
	defer cancel()
	begun := time.Now()
	err := cluster.WaitFor(ctx, fmt.Sprintf("%d replicas of %s", want, name), func(ctx context.Context) (bool, error) {
		got, err := w.deployed(ctx, name)
		if err == nil && got != want {
			err = fmt.Errorf("it has %d", got)
		}
		return err == nil, err
	})
	if err != nil {
		w.Fatal(err)
	}
	return time.Since(begun)
}

// holds looks at a Deployment for a while: its replicas must not change.
func (w *world) holds(name string, want int, length time.Duration) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), length+time.Minute)
	defer cancel()
	end := time.Now().Add(length)
	err := cluster.WaitFor(ctx, "the time to pass", func(ctx context.Context) (bool, error) {
		if got, err := w.deployed(ctx, name); err == nil && got != want {
			w.Fatalf("%s has %d replicas %s before the %s were over, want %d", name, got, time.Until(end).Round(time.Second), length, want)
		}
		return time.Now().After(end), nil
	})
	if err != nil {
		w.Fatal(err)
	}
}

// apply writes objects, and waits until KEDA has taken up what is to be scaled.
func (w *world) apply(objs []*unstructured.Unstructured) {
	w.Helper()
	if err := charts.Apply(w.Context(), w.cluster.RESTConfig(), objs); err != nil {
		w.Fatal(err)
	}
	for _, obj := range objs {
		if obj.GetKind() == "ScaledObject" {
			w.waitCondition(obj.GetName(), "Ready", true)
		}
	}
}

func (w *world) waitCondition(name, kind string, want bool) {
	w.Helper()
	err := cluster.WaitFor(w.Context(), fmt.Sprintf("%s of %s to be %v", kind, name, want), func(ctx context.Context) (bool, error) {
		got, err := w.scaled.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		is, err := charts.Condition(got, kind)
		if is == want {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		w.Fatal(err)
	}
}
