package sweep

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/stoker-project/stoker/agent"
)

const (
	// pageSize is how many objects one request asks for. A Node's metadata have up to 300
	// KB at the limit of 500 warm models, most of them managed fields.
	pageSize = 100
	// listTries is how often a list begins anew whose pages have expired on the way,
	// which takes five minutes by default.
	listTries = 3
)

// newWatch keeps the objects of a list and its watch, each as small makes it. It never
// holds more than a page of them as the API server sends them: an informer's own list is
// decoded as a whole before it transforms the first object, where the API server does not
// stream it.
func newWatch[L metav1.ListInterface](
	object runtime.Object, list func(context.Context, metav1.ListOptions) (L, error), watchFrom func(context.Context, metav1.ListOptions) (watch.Interface, error),
	items func(L) []runtime.Object, small func(runtime.Object) runtime.Object,
) (cache.Store, cache.Controller) {
	return cache.NewInformerWithOptions(cache.InformerOptions{
		ObjectType: object, Handler: cache.ResourceEventHandlerFuncs{},
		// Of what is watched, and of lists that are streamed, one after the other. It changes
		// nothing of what is small.
		Transform: func(o any) (any, error) {
			if object, ok := o.(runtime.Object); ok {
				return small(object), nil
			}
			return o, nil // the last state of an object whose deletion was missed
		},
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return listSmall(ctx, o, list, items, small)
			},
			WatchFuncWithContext: watchFrom,
		},
	})
}

// listSmall lists page by page, all of one moment. Whatever version o asks for, the list
// is the newest: from the watch cache the API server may answer with all at once.
func listSmall[L metav1.ListInterface](
	ctx context.Context, o metav1.ListOptions, list func(context.Context, metav1.ListOptions) (L, error), items func(L) []runtime.Object, small func(runtime.Object) runtime.Object,
) (runtime.Object, error) {
	o.Limit, o.Continue, o.ResourceVersion, o.ResourceVersionMatch = pageSize, "", "", ""
	out := &metav1.List{}
	for try := 1; ; {
		page, err := list(ctx, o)
		if apierrors.IsResourceExpired(err) && o.Continue != "" && try < listTries {
			out.Items, o.Continue = nil, ""
			try++
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, object := range items(page) {
			out.Items = append(out.Items, runtime.RawExtension{Object: small(object)})
		}
		out.ResourceVersion = page.GetResourceVersion()
		if o.Continue = page.GetContinue(); o.Continue == "" {
			return out, nil
		}
	}
}

func nodeItems(l *metav1.PartialObjectMetadataList) []runtime.Object {
	out := make([]runtime.Object, len(l.Items))
	for i := range l.Items {
		out[i] = &l.Items[i]
	}
	return out
}

func podItems(l *corev1.PodList) []runtime.Object {
	out := make([]runtime.Object, len(l.Items))
	for i := range l.Items {
		out[i] = &l.Items[i]
	}
	return out
}

// littleNode keeps of a Node's metadata what decides whether its labels are to go. Of the
// keys that agents write one of each kind is enough: which are to be removed is read anew
// before. So a Node takes as much with 500 models as with one.
func littleNode(o runtime.Object) runtime.Object {
	m, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return o
	}
	n := nodeOf(m)
	small := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.Version}}
	if len(n.Labels) > 0 {
		small.Labels = map[string]string{n.Labels[0]: ""}
	}
	if len(n.Annotations) > 0 {
		small.Annotations = map[string]string{n.Annotations[0]: ""}
	}
	if n.Release != "" {
		small.Annotations = map[string]string{agent.StatusAnnotation: statusOf(n.Release)}
	}
	if !n.Wrote.IsZero() {
		wrote := metav1.NewTime(n.Wrote)
		small.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: agent.FieldManager, Time: &wrote}}
	}
	return small
}

// littlePod keeps of a pod what podOf reads.
func littlePod(o runtime.Object) runtime.Object {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o
	}
	small := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion},
		Spec:       corev1.PodSpec{NodeName: p.Spec.NodeName},
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			small.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime}}
		}
	}
	return small
}
