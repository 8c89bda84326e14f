//go:build e2e

package serving

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
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

// slack is what a busy machine may take beside.
const slack = 30 * time.Second

// feeling is what the replicas of one Deployment report together.
type feeling struct {
	// queue and running are those of all replicas together; cache is each one's.
	queue, running, cache float64
	names                 Names
}

// world is a control plane, a Prometheus that scrapes every pod that is ready,
// what scales by it, and somebody who plays the kubelets: no container runs.
type world struct {
	*testing.T
	cluster  *cluster.Cluster
	scaled   dynamic.ResourceInterface
	replicas *Replicas
	kubelet  *Kubelet
	rules    []byte
	promDir  string
	promAddr string
	logs     []string

	mu       sync.Mutex
	prom     *Prometheus // nil while it is away
	feelings map[string]feeling
	ready    map[string][]string // the pods of each Deployment, the oldest first
}

// newWorld starts a control plane and Prometheus, at this address.
func newWorld(t *testing.T, prometheus string, rules []byte) *world {
	t.Helper()
	w := &world{
		T: t, replicas: NewReplicas(), kubelet: NewKubelet(), rules: rules, promAddr: prometheus, promDir: t.TempDir(),
		feelings: map[string]feeling{}, ready: map[string][]string{},
	}
	t.Cleanup(w.replicas.Close)
	t.Cleanup(w.kubelet.Close)
	var err error
	if w.cluster, err = cluster.Start(t.Context(), cluster.Options{Log: os.Stderr}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.must(w.cluster.Stop()) })
	w.startPrometheus()
	t.Cleanup(w.stopPrometheus)
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

// built is where make e2e-serving, which sets the variable, has built something.
func (w *world) built(variable string) string {
	w.Helper()
	path := os.Getenv(variable)
	if path == "" {
		w.Fatalf("%s does not say where the programs are; make e2e-serving builds them and sets it", variable)
	}
	return path
}

// keep has programs stopped when the test ends, and their logs shown if it fails.
func (w *world) keep(p *Programs, err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
	w.logs = append(w.logs, p.Logs...)
	w.Cleanup(func() { w.must(p.Stop()) })
}

func (w *world) startKEDA() {
	w.Helper()
	w.keep(StartKEDA(w.Context(), w.cluster, w.built("STOKER_E2E_KEDA"), w.TempDir()))
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
	ready := map[string][]string{}
	there := map[string]bool{}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
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
		ready[owner] = append(ready[owner], pod.Name)
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
	w.ready = ready
	cores := map[PodContainer]float64{}
	for owner, pods := range ready {
		for _, pod := range pods {
			cores[PodContainer{namespace, pod, "vllm"}] = w.load(owner, pod).Cores()
		}
	}
	w.kubelet.Use(cores)
	if w.prom != nil {
		errs = append(errs, w.prom.Scrape(targets))
	}
	return errors.Join(errs...)
}

// load is a pod's part of what its Deployment feels: an equal one of the requests
// that run, as far as a batch takes them, and the whole queue if it is the oldest. What is scraped a second
// apart would else not sum up to it while pods come. w.mu is held.
func (w *world) load(owner, pod string) Load {
	f := w.feelings[owner]
	l := Load{KVCache: f.cache}
	if i := slices.Index(w.ready[owner], pod); i >= 0 {
		n := len(w.ready[owner])
		l.Running = min(maxRunning, max(0, math.Ceil((f.running-float64(i))/float64(n))))
		if i == 0 {
			l.Waiting = f.queue
		}
	}
	return l
}

func (w *world) page(owner, pod string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Page(w.feelings[owner].names, served, w.load(owner, pod))
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
