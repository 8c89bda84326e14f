package placement

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/test/cluster"
)

// marker tells when the scheduler has seen that pods are gone. It takes the
// only GPU of a node of its own: the next marker is bound when the scheduler has
// seen the last one go, and so everything that went before.
type marker struct {
	*fixture
	last int
}

const markers = "marker"

func (f *fixture) newMarker() *marker {
	f.Helper()
	if _, err := f.cluster.AddNode(f.Context(), cluster.NodeSpec{Name: markers, GPUs: 1, CPU: "96", Memory: "1Ti"}); err != nil {
		f.Fatal(err)
	}
	m := &marker{fixture: f}
	m.put()
	return m
}

func (m *marker) put() {
	m.Helper()
	m.last++
	app := fmt.Sprintf("%s-%d", markers, m.last)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: app, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{corev1.LabelHostname: markers},
			Containers:   []corev1.Container{{Name: "c", Image: "i", Resources: share(1)}},
		},
	}
	if _, err := m.client.CoreV1().Pods(fillers).Create(m.Context(), p, metav1.CreateOptions{}); err != nil {
		m.Fatal(err)
	}
	m.waitPods(fillers, app, 1, 0)
}

// move returns when the scheduler knows of every deletion before the call.
func (m *marker) move() {
	m.Helper()
	if err := m.client.CoreV1().Pods(fillers).Delete(m.Context(), fmt.Sprintf("%s-%d", markers, m.last), *metav1.NewDeleteOptions(0)); err != nil {
		m.Fatal(err)
	}
	m.put()
}

// waitGone deletes the pods of an app as often as it takes: a controller may
// make one more before it has heard of its own end.
func (f *fixture) waitGone(namespace, app string, how metav1.DeleteOptions) {
	f.Helper()
	err := cluster.WaitFor(f.Context(), "the pods of "+app+" to go", func(ctx context.Context) (bool, error) {
		list, err := f.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return false, err
		}
		for _, p := range list.Items {
			if err := f.client.CoreV1().Pods(namespace).Delete(ctx, p.Name, how); err != nil && !apierrors.IsNotFound(err) {
				return false, err
			}
		}
		sets, err := f.client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		return len(list.Items) == 0 && len(sets.Items) == 0 && len(f.pods.of(namespace, app)) == 0, nil
	})
	if err != nil {
		f.Fatal(err)
	}
}
