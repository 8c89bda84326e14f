package sweep

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/stoker-project/stoker/agent/sweep"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/hostile"
)

// A release of its own, whose agents nobody needs: one of its namespaces is called as
// the agents' own volume ends, and another one's name runs together with the release's.
const (
	volumeRelease = "vol"
	volumeSweeper = volumeRelease + "-stoker-sweeper"
	volumeValues  = `
namespaces: [team-a, store, a-b]
volume: {mode: shared, claimSize: 5Gi, shared: {source: {nfs: {server: nas.example, path: /models}}}}
`
)

// volumeObjects are what the release consists of, but for the agents.
func volumeObjects(b *bench) []*unstructured.Unstructured {
	b.Helper()
	objs, err := charts.Render([]byte(volumeValues), volumeRelease, namespace)
	if err != nil {
		b.Fatal(err)
	}
	return slices.DeleteFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetKind() == "DaemonSet" })
}

// upgrade applies everything that is not being deleted, as `helm upgrade` does.
func (b *bench) upgrade() {
	b.Helper()
	if err := charts.Apply(b.Context(), b.cluster.RESTConfig(), volumeObjects(b)); err != nil {
		b.Fatal(err)
	}
}

// lookAtVolumes runs the sweeper, with the chart's arguments and account, until done.
func (b *bench) lookAtVolumes(what string, done func(ctx context.Context) (bool, error)) {
	b.Helper()
	var o sweep.Options
	for _, obj := range volumeObjects(b) {
		if obj.GetKind() != "Deployment" {
			continue
		}
		for _, arg := range containerArgs(b, obj) {
			flag, value, _ := strings.Cut(arg, "=")
			var err error
			switch flag {
			case "--volume":
				var v sweep.Volume
				v, err = sweep.ParseVolume(value)
				o.Volumes = append(o.Volumes, v)
			case "--release":
				o.Release, err = sweep.ParseRelease(value)
			case "--selector":
				o.Selector = value
			case "--namespace":
				o.Namespace = value
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	log := &log{}
	o.Kube, o.Logger = b.as(volumeSweeper), slog.New(slog.NewTextHandler(log, nil))
	s, err := sweep.New(o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	b.wait(what, done)
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
	if strings.Contains(log.String(), "forbidden") {
		b.Errorf("the sweeper asked for what the chart does not give:\n%s", log.String())
	}
}

func (b *bench) phase(namespace, claim string) corev1.PersistentVolumeClaimPhase {
	b.Helper()
	c, err := b.client.CoreV1().PersistentVolumeClaims(namespace).Get(b.Context(), claim, metav1.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return c.Status.Phase
}

func (b *bench) bound(namespace, claim string) func(ctx context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		c, err := b.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, claim, metav1.GetOptions{})
		return err == nil && c.Status.Phase == corev1.ClaimBound, err
	}
}

func (b *bench) pv(name string) *corev1.PersistentVolume {
	b.Helper()
	pv, err := b.client.CoreV1().PersistentVolumes().Get(b.Context(), name, metav1.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return pv
}

func (b *bench) waitReleased(name string) {
	b.Helper()
	b.wait("volume "+name+" to be released", func(ctx context.Context) (bool, error) {
		pv, err := b.client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
		return err == nil && pv.Status.Phase == corev1.VolumeReleased, err
	})
}

// told is whether an event about a volume has all of the texts.
func (b *bench) told(volume, reason string, texts ...string) func(ctx context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		events, err := b.client.EventsV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, e := range events.Items {
			if e.Regarding.Kind != "PersistentVolume" || e.Regarding.Name != volume || e.Reason != reason {
				continue
			}
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(e.Note, text) }) {
				return true, nil
			}
		}
		return false, nil
	}
}

// The real controllers bind, release and protect; the chart is applied again each time,
// as an upgrade would.
func testVolumes(b *bench) {
	ctx, claims, volumes := b.Context(), b.client.CoreV1().PersistentVolumeClaims, b.client.CoreV1().PersistentVolumes()
	for _, name := range []string{"team-a", "store", "a-b"} {
		b.namespace(name)
	}
	b.upgrade()
	for ns, claim := range map[string]string{"team-a": "stoker-models", "store": "stoker-models", "a-b": "stoker-models", namespace: "vol-stoker-store"} {
		b.wait("the claim of "+ns, b.bound(ns, claim))
	}
	if pv := b.pv("vol-stoker.store"); pv.Spec.ClaimRef.Namespace != "store" || pv.Spec.Capacity.Storage().String() != "5Gi" {
		b.Errorf("the volume of the namespace called store is %+v", pv.Spec)
	}
	b.runningPod("team-a")
	running := b.pv("vol-stoker.team-a")

	// A claim that was deleted, and made again by an upgrade.
	if err := claims("store").Delete(ctx, "stoker-models", metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	// A namespace that was deleted, and is there again.
	b.dropNamespace("a-b")
	b.waitReleased("vol-stoker.store")
	b.waitReleased("vol-stoker.a-b")
	b.namespace("a-b")
	b.upgrade()
	for _, ns := range []string{"store", "a-b"} {
		if phase := b.phase(ns, "stoker-models"); phase != corev1.ClaimPending {
			b.Errorf("without the sweeper, the new claim of %s is %s", ns, phase)
		}
	}
	b.lookAtVolumes("the claim of store", b.bound("store", "stoker-models"))
	b.wait("the claim of a-b", b.bound("a-b", "stoker-models"))
	b.wait("the event", b.told("vol-stoker.store", sweep.EventVolumeFreed, "claim stoker-models of namespace store"))
	if now := b.pv("vol-stoker.team-a"); now.ResourceVersion != running.ResourceVersion {
		b.Error("the volume that a pod uses was written")
	}

	// A namespace leaves the list and comes back while a pod runs: claim and volume are
	// being deleted, and applying them again does not change that.
	if err := claims("team-a").Delete(ctx, "stoker-models", metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	if err := volumes.Delete(ctx, "vol-stoker.team-a", metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.upgrade()
	again := "helm upgrade vol CHART --namespace " + namespace
	b.lookAtVolumes("the event of a volume that goes", b.told("vol-stoker.team-a", sweep.EventVolumeDeleted, "it is being deleted", again))
	code, stdout, stderr := b.unlabel(b.binary(), b.cluster.KubeconfigPath, "status")
	if code != 0 || !strings.Contains(stdout, "team-a     vol-stoker.team-a  deleting  it goes when the last pod ends that mounts it") || !strings.Contains(stdout, again) ||
		strings.Contains(stdout, "vol-stoker.store") {
		b.Errorf("stoker status: exit code %d\n%s%s", code, stdout, stderr)
	}
	if pv := b.pv("vol-stoker.team-a"); pv.Spec.ClaimRef.UID != running.Spec.ClaimRef.UID {
		b.Error("the volume that a pod uses was freed")
	}
	if err := b.client.CoreV1().Pods("team-a").Delete(ctx, "vllm", *metav1.NewDeleteOptions(0)); err != nil {
		b.Fatal(err)
	}
	b.wait("the volume to be gone", func(ctx context.Context) (bool, error) {
		_, err := volumes.Get(ctx, "vol-stoker.team-a", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	b.lookAtVolumes("the event of a volume that is gone", b.told("vol-stoker.team-a", sweep.EventVolumeDeleted, "it is gone", "claim stoker-models", again))
	b.upgrade()
	b.wait("the claim of team-a", b.bound("team-a", "stoker-models"))
}

func (b *bench) namespace(name string) {
	b.Helper()
	if _, err := b.client.CoreV1().Namespaces().Create(b.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) dropNamespace(name string) {
	b.Helper()
	if err := b.client.CoreV1().Namespaces().Delete(b.Context(), name, metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.wait("namespace "+name+" to be gone", func(ctx context.Context) (bool, error) {
		_, err := b.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// runningPod makes a pod that mounts the claim; the real scheduler binds it.
func (b *bench) runningPod(namespace string) {
	b.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "vllm"},
		Spec: corev1.PodSpec{
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:  []corev1.Container{{Name: "vllm", Image: "vllm"}},
			Volumes: []corev1.Volume{{Name: "m", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "stoker-models", ReadOnly: true},
			}}},
		},
	}
	b.wait("the pod to be created", func(ctx context.Context) (bool, error) { // its account comes a moment after the namespace
		_, err := b.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err == nil, err
	})
	b.wait("the pod to be bound to a node", func(ctx context.Context) (bool, error) {
		p, err := b.client.CoreV1().Pods(namespace).Get(ctx, "vllm", metav1.GetOptions{})
		return err == nil && p.Spec.NodeName != "", err
	})
	if _, err := b.client.CoreV1().Pods(namespace).Patch(b.Context(), "vllm", types.MergePatchType, []byte(`{"status":{"phase":"Running"}}`), metav1.PatchOptions{}, "status"); err != nil {
		b.Fatal(err)
	}
}

// What the policy says of what it refuses.
const (
	onlyFree     = "this account may free volumes, and do nothing else with PersistentVolumes"
	onlyOwn      = "this account may free the volumes of its own release, and no others"
	noMetadata   = "this account may not change the metadata of a volume"
	onlyClaim    = "this account may not change the spec of a volume, but for the claim"
	onlyReleased = "this account may free a volume whose claim was deleted, and no other"
	onlyUID      = "this account may take uid and resourceVersion from a volume's claim"
	noVolume     = "is forbidden: User \"system:serviceaccount:" + namespace + ":" + volumeSweeper + "\" cannot"
)

func testVolumePolicy(b *bench) {
	const path = "/api/v1/persistentvolumes/"
	// One that was released stays so: no sweeper runs.
	if err := b.client.CoreV1().PersistentVolumeClaims("store").Delete(b.Context(), "stoker-models", metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.waitReleased("vol-stoker.store")
	foreign := b.pv("vol-stoker.store").DeepCopy()
	foreign.ObjectMeta = metav1.ObjectMeta{Name: "foreign"}
	foreign.Spec.ClaimRef = nil
	if _, err := b.client.CoreV1().PersistentVolumes().Create(b.Context(), foreign, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	cfg := b.as(volumeSweeper)
	patch := func(name, volume, body, reason string) hostile.Request {
		return hostile.Request{Name: name, Method: http.MethodPatch, Path: path + volume, Media: hostile.Merge, Body: body, Reason: reason}
	}
	free := `{"spec":{"claimRef":{"uid":null,"resourceVersion":null}}}`
	hostile.Try(b.T, cfg, []hostile.Request{
		patch("free a bound volume", "vol-stoker.a-b", free, onlyReleased),
		patch("hold it for another claim", "vol-stoker.store", `{"spec":{"claimRef":{"name":"mine","uid":null}}}`, onlyUID),
		patch("hold it for another namespace", "vol-stoker.store", `{"spec":{"claimRef":{"namespace":"team-a","uid":null}}}`, onlyUID),
		patch("hold it for another uid", "vol-stoker.store", `{"spec":{"claimRef":{"uid":"a"}}}`, onlyUID),
		patch("hold it for nobody", "vol-stoker.store", `{"spec":{"claimRef":null}}`, onlyClaim),
		patch("let it be deleted", "vol-stoker.store", `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`, onlyClaim),
		patch("let it be written", "vol-stoker.store", `{"spec":{"accessModes":["ReadWriteMany"]}}`, onlyClaim),
		patch("give it mount options", "vol-stoker.store", `{"spec":{"mountOptions":["suid"]}}`, onlyClaim),
		patch("free it and let it be written", "vol-stoker.store", `{"spec":{"claimRef":{"uid":null},"accessModes":["ReadWriteMany"]}}`, onlyClaim),
		patch("put it elsewhere", "vol-stoker.store", `{"spec":{"nfs":{"server":"mine.example"}}}`, "is immutable after creation"),
		patch("label it", "vol-stoker.store", `{"metadata":{"labels":{"a":"b"}}}`, noMetadata),
		patch("annotate it", "vol-stoker.store", `{"metadata":{"annotations":{"a":"b"}}}`, noMetadata),
		patch("take its protection", "vol-stoker.store", `{"metadata":{"finalizers":null}}`, noMetadata),
		patch("patch another volume", "foreign", `{"metadata":{"labels":{"a":"b"}}}`, noVolume),
		patch("patch its status", "vol-stoker.store/status", `{"status":{"phase":"Available"}}`, noVolume),
		{Name: "read another volume", Method: http.MethodGet, Path: path + "foreign", Reason: noVolume},
		{Name: "list volumes", Method: http.MethodGet, Path: "/api/v1/persistentvolumes", Reason: noVolume},
		{Name: "delete it", Method: http.MethodDelete, Path: path + "vol-stoker.store", Reason: noVolume},
		{Name: "make one", Method: http.MethodPost, Path: "/api/v1/persistentvolumes", Body: `{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"mine"}}`, Reason: noVolume},
		{Name: "read claims", Method: http.MethodGet, Path: "/api/v1/namespaces/store/persistentvolumeclaims", Reason: noVolume},
	})
	b.everyVolume(volumeSweeper)
	hostile.Try(b.T, cfg, []hostile.Request{
		patch("with every right, patch another volume", "foreign", `{"metadata":{"labels":{"a":"b"}}}`, onlyOwn),
		patch("with every right, patch its status", "vol-stoker.store/status", `{"status":{"phase":"Available"}}`, onlyFree),
		{Name: "with every right, delete it", Method: http.MethodDelete, Path: path + "vol-stoker.store", Reason: onlyFree},
		{Name: "with every right, delete all", Method: http.MethodDelete, Path: "/api/v1/persistentvolumes", Reason: onlyFree},
		{
			Name: "with every right, make one", Method: http.MethodPost, Path: "/api/v1/persistentvolumes",
			Body:   `{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"mine"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadOnlyMany"],"hostPath":{"path":"/"}}}`,
			Reason: onlyFree,
		},
		{Name: "read it", Method: http.MethodGet, Path: path + "vol-stoker.store"},
		patch("change nothing", "vol-stoker.a-b", `{}`, ""),
		patch("free it", "vol-stoker.store", free, ""),
	})
	b.upgrade()
	b.wait("the claim of store", b.bound("store", "stoker-models"))
}

// everyVolume gives an account every right on volumes, and waits until it is in force.
func (b *bench) everyVolume(account string) {
	b.Helper()
	meta := metav1.ObjectMeta{Name: "everything-with-volumes"}
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"persistentvolumes", "persistentvolumes/status"}, Verbs: []string{"*"}},
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: namespace}},
	}
	if _, err := b.client.RbacV1().ClusterRoles().Create(b.Context(), role, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	if _, err := b.client.RbacV1().ClusterRoleBindings().Create(b.Context(), binding, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(b.as(account))
	if err != nil {
		b.Fatal(err)
	}
	b.wait("the role to be in force", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		return err == nil, err
	})
}
