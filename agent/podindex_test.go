package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// servingPod is a replica of vLLM as the watch keeps it.
func servingPod(tb testing.TB, i int) *corev1.Pod {
	tb.Helper()
	ready := metav1.NewTime(time.Unix(1_800_000_000, 0))
	kept, err := keepLittle(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "serving", Name: fmt.Sprintf("p-%d", i), UID: types.UID(fmt.Sprintf("uid-%d", i)), Labels: map[string]string{ModelLabel: "llama"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Image: "vllm/vllm-openai:v0.33.0", Args: []string{"--model", "/stoker/models/llama", "--tensor-parallel-size=2"},
			Ports:     []corev1.ContainerPort{{Name: metricsPort, ContainerPort: 8000}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{gpuResource: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("8Gi")}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", HostIP: "192.0.2.1", Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: ready}, {Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: ready},
		}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	p, ok := kept.(*corev1.Pod)
	if !ok {
		tb.Fatalf("the watch keeps a %T", kept)
	}
	return p
}

// What is asked for is what the objects say by then, whatever happened to them.
func TestPodIndex(t *testing.T) {
	var x podIndex
	uids := func() string {
		text := ""
		for _, p := range x.all() {
			text += p.UID + " "
		}
		return text
	}
	for i := range 3 {
		if !x.put(servingPod(t, 2-i)) {
			t.Error("a new pod is no change")
		}
	}
	if got := uids(); got != "uid-0 uid-1 uid-2 " {
		t.Errorf("pods %s", got)
	}
	all := x.all()
	if diff := cmp.Diff(podOf(servingPod(t, 1)), all[1], cmp.Comparer(func(a, b replicaPod) bool { return fmt.Sprint(a) == fmt.Sprint(b) })); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	all[0] = pod{} // the caller's own

	again := servingPod(t, 1) // made again under its name
	again.UID, again.Status.Phase = "uid-9", corev1.PodFailed
	x.put(again)
	if !x.remove(cache.DeletedFinalStateUnknown{Key: "serving/p-2", Obj: servingPod(t, 2)}) || x.remove(servingPod(t, 7)) {
		t.Error("only what was there can go")
	}
	if got := uids(); got != "uid-0 uid-9 " || !x.all()[1].over() {
		t.Errorf("pods %s", got)
	}

	// Of all nodes' pods, those that cannot read the store are no change.
	x = podIndex{keep: readsStore}
	other := servingPod(t, 0)
	other.Labels = nil
	if x.put(other) || len(x.all()) > 0 || !x.put(servingPod(t, 0)) || !x.put(other) || len(x.all()) > 0 {
		t.Errorf("pods %s", uids())
	}
}

// What each of so many pods costs that are created one after the other, when all are
// looked at each time. The loop itself looks as often as it can.
func BenchmarkPodsCreated(b *testing.B) {
	for _, count := range []int{100, 1000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			pods := make([]*corev1.Pod, count)
			for i := range pods {
				pods[i] = servingPod(b, i)
			}
			for b.Loop() {
				var x podIndex
				for _, p := range pods {
					x.put(p)
					x.all()
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*count), "ns/pod")
		})
	}
}
