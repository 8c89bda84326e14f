package sweep

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestParseVolume(t *testing.T) {
	for text, good := range map[string]bool{
		"stoker.team-a=team-a/stoker-models": true, "a=b/c": true,
		"": false, "a": false, "a=b": false, "a=/c": false, "=b/c": false, "a=b/": false, "a=b/c/d": false, "a=b.c/d": false,
	} {
		v, err := ParseVolume(text)
		if (err == nil) != good || (good && v.String() != text) {
			t.Errorf("%q: %q, %v", text, v, err)
		}
	}
}

// volumes is an API server with one volume, as a keeper sees it.
type volumes struct {
	pv  *corev1.PersistentVolume // nil: gone
	err error
	// refused: the patch, not the look
	refused error
	freed   int
	told    []event
}

var volumeResource = schema.GroupResource{Resource: "persistentvolumes"}

func (v *volumes) volume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	switch {
	case v.err != nil:
		return nil, v.err
	case v.pv == nil:
		return nil, apierrors.NewNotFound(volumeResource, name)
	}
	return v.pv.DeepCopy(), nil
}

func (v *volumes) free(_ context.Context, pv *corev1.PersistentVolume) error {
	if v.refused != nil {
		return v.refused
	}
	if pv.ResourceVersion != v.pv.ResourceVersion {
		return apierrors.NewConflict(volumeResource, pv.Name, errors.New("the object has been modified"))
	}
	v.freed++
	v.pv.Spec.ClaimRef.UID, v.pv.Status.Phase = "", corev1.VolumeAvailable
	return nil
}

func (v *volumes) event(_ context.Context, e event) error {
	v.told = append(v.told, e)
	return nil
}

func (v *volumes) is(phase corev1.PersistentVolumePhase) {
	v.pv.Status.Phase = phase
}

func (v *volumes) reasons() []string {
	var out []string
	for _, e := range v.told {
		out = append(out, e.Reason)
	}
	return out
}

func TestVolumeKeeper(t *testing.T) {
	const again = "helm upgrade rel CHART --namespace ns --reuse-values"
	for name, tc := range map[string]struct {
		// happens to a bound volume; then an hour and ten minutes pass.
		happens func(v *volumes)
		later   func(v *volumes) // happens at
		at      time.Duration
		want    []string
		freed   int
		text    string
		state   volumeState
	}{
		"nothing": {happens: func(*volumes) {}, state: volumeBound},
		"the claim is deleted, and another one comes": {
			happens: func(v *volumes) { v.is(corev1.VolumeReleased) },
			later:   func(v *volumes) { v.is(corev1.VolumeBound) }, at: 45 * time.Second,
			want: []string{EventVolumeFreed}, freed: 1, text: "claim stoker-models of namespace team-a, which had bound it, was deleted", state: volumeBound,
		},
		"the claim is deleted for good": {
			happens: func(v *volumes) { v.is(corev1.VolumeReleased) },
			want:    []string{EventVolumeFreed, EventClaimMissing, EventClaimMissing}, freed: 1, text: again, state: volumeUnclaimed,
		},
		"it is being deleted": {
			happens: func(v *volumes) { v.pv.DeletionTimestamp = &metav1.Time{Time: time.Now()} },
			want:    []string{EventVolumeDeleted, EventVolumeDeleted}, text: again, state: volumeDeleting,
		},
		"it is gone": {
			happens: func(v *volumes) { v.pv = nil },
			want:    []string{EventVolumeDeleted, EventVolumeDeleted}, text: again, state: volumeMissing,
		},
		"it is being deleted, released": { // what frees it would change nothing
			happens: func(v *volumes) {
				v.pv.DeletionTimestamp = &metav1.Time{Time: time.Now()}
				v.is(corev1.VolumeReleased)
			},
			want: []string{EventVolumeDeleted, EventVolumeDeleted}, state: volumeDeleting,
		},
		"the API server is away": {happens: func(v *volumes) { v.err = errAway }, state: volumeBound},
		"it is released, and cannot be patched": {
			happens: func(v *volumes) {
				v.is(corev1.VolumeReleased)
				v.refused = errAway
			},
			later: func(v *volumes) { v.refused = nil }, at: time.Hour,
			want: []string{EventVolumeFreed, EventClaimMissing}, freed: 1, state: volumeUnclaimed,
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &volumes{pv: &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "stoker.team-a", UID: "pv", ResourceVersion: "1"}}}
				v.pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "team-a", Name: "stoker-models", UID: "deleted"}
				v.is(corev1.VolumeBound)
				k := newVolumeKeeper(v, []Volume{{Name: "stoker.team-a", Namespace: "team-a", Claim: "stoker-models"}}, Release{Namespace: "ns", Name: "rel"}, slog.New(slog.DiscardHandler))
				k.round(t.Context())
				tc.happens(v)
				for begin := time.Now(); time.Since(begin) < 70*time.Minute; {
					time.Sleep(volumeInterval)
					if tc.later != nil && time.Since(begin) >= tc.at {
						tc.later(v)
						tc.later = nil
					}
					k.round(t.Context())
				}
				if diff := cmp.Diff(tc.want, v.reasons()); diff != "" {
					t.Errorf("events, -want +got\n%s", diff)
				}
				if v.freed != tc.freed {
					t.Errorf("it was freed %d times", v.freed)
				}
				if got := k.volumes[0].state; got != tc.state {
					t.Errorf("its state is %s", got)
				}
				if tc.text != "" && !slices.ContainsFunc(v.told, func(e event) bool { return strings.Contains(e.Note, tc.text) }) {
					t.Errorf("no event has %q: %+v", tc.text, v.told)
				}
				for _, e := range v.told {
					if e.Kind != "PersistentVolume" || e.Node != "stoker.team-a" || e.Warning == (e.Reason == EventVolumeFreed) || len(e.Note) > 1000 {
						t.Errorf("%+v", e)
					}
				}
			})
		})
	}
}
