package fleet

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pv is a volume for the claim of a namespace.
func pv(namespace string, phase corev1.PersistentVolumePhase, uid types.UID) corev1.PersistentVolume {
	return corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "stoker." + namespace},
		Spec:       corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: namespace, Name: claimName, UID: uid}},
		Status:     corev1.PersistentVolumeStatus{Phase: phase},
	}
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	going := pv("going", corev1.VolumeBound, "a")
	going.DeletionTimestamp = &metav1.Time{Time: now}
	left := pv("left-the-list", corev1.VolumeBound, "a")
	left.DeletionTimestamp = &metav1.Time{Time: now}
	store := pv("stoker", corev1.VolumeBound, "a")
	store.Name, store.Spec.ClaimRef.Name = "stoker-store", "stoker-store"
	unbound := pv("x", corev1.VolumeAvailable, "")
	unbound.Spec.ClaimRef = nil
	f := Read(nil, now)
	f.Add(Volumes{
		PVs: []corev1.PersistentVolume{
			pv("fine", corev1.VolumeBound, "a"), going, left, store, unbound,
			pv("released", corev1.VolumeReleased, "a"), pv("unclaimed", corev1.VolumeAvailable, ""),
		},
		Releases: []ReleaseNamespaces{
			{Release: "stoker/stoker", Namespaces: []string{"fine", "going", "released", "unclaimed"}},
			{Release: "", Namespaces: []string{"missing"}},
		},
	})
	const again = "apply the chart again: helm upgrade stoker CHART --namespace stoker --reuse-values"
	want := []Volume{
		{Name: "stoker.going", Namespace: "going", Claim: claimName, State: VolumeDeleting, Hint: "it goes when the last pod ends that mounts it, and new pods stay Pending; then " + again},
		{Namespace: "missing", Claim: claimName, State: VolumeMissing, Hint: "apply the chart again"},
		{
			Name: "stoker.released", Namespace: "released", Claim: claimName, State: VolumeReleased,
			Hint: "the sweeper frees it within a minute; if it does not: kubectl patch pv stoker.released --type=json" +
				` -p '[{"op":"remove","path":"/spec/claimRef/uid"},{"op":"remove","path":"/spec/claimRef/resourceVersion"}]'; if the claim is gone, ` + again,
		},
		{Name: "stoker.unclaimed", Namespace: "unclaimed", Claim: claimName, State: VolumeUnclaimed, Hint: again},
	}
	if diff := cmp.Diff(want, f.Volumes); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	text := render(t, f, View{})
	for _, v := range want {
		if !strings.Contains(text, v.Hint) || !strings.Contains(text, v.Namespace) {
			t.Errorf("%+v is not shown:\n%s", v, text)
		}
	}
	if only, err := f.Only("", ""); err != nil || len(only.Volumes) != len(want) {
		t.Errorf("Only drops volumes: %v", err)
	}
	// Where all is well, or nothing could be read, nothing is shown.
	quiet := Read(nil, now)
	quiet.Add(Volumes{PVs: []corev1.PersistentVolume{pv("fine", corev1.VolumeBound, "a")}, Releases: []ReleaseNamespaces{{Release: "a/b", Namespaces: []string{"fine"}}}})
	if b, err := json.Marshal(quiet); err != nil || strings.Contains(string(b), "volumes") || strings.Contains(render(t, quiet, View{}), "NAMESPACE") {
		t.Errorf("%s, %v", b, err)
	}
}
