package sweep

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Reasons of the events on PersistentVolumes.
const (
	// EventVolumeFreed: the volume named a claim that was deleted, and may be bound by
	// a claim of the same name again.
	EventVolumeFreed = "VolumeFreed"
	// EventClaimMissing: no claim has bound the volume for a while.
	EventClaimMissing = "ClaimMissing"
	// EventVolumeDeleted: the volume is being deleted, or gone, though the release
	// still lists its namespace.
	EventVolumeDeleted = "VolumeDeleted"
)

const (
	// volumeInterval is how often volumes are looked at, claimGrace how long a volume
	// may be without a claim before that is reported: an installation makes both, one
	// after the other.
	volumeInterval = 30 * time.Second
	claimGrace     = time.Minute
	// troubleEvery is how often trouble that lasts is reported again: the API server
	// keeps events for an hour.
	troubleEvery = time.Hour
)

// Volume is a PersistentVolume that the chart makes, and the claim that it is for.
type Volume struct{ Name, Namespace, Claim string }

func (v Volume) String() string { return v.Name + "=" + v.Namespace + "/" + v.Claim }

// ParseVolume reads NAME=NAMESPACE/CLAIM.
func ParseVolume(text string) (Volume, error) {
	name, rest, _ := strings.Cut(text, "=")
	namespace, claim, _ := strings.Cut(rest, "/")
	if len(validation.IsDNS1123Subdomain(name)) > 0 || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(claim)) > 0 {
		return Volume{}, fmt.Errorf("%q is no volume with its claim; write NAME=NAMESPACE/CLAIM", text)
	}
	return Volume{Name: name, Namespace: namespace, Claim: claim}, nil
}

// volumeState is what a volume's object says.
type volumeState string

const (
	volumeBound volumeState = "bound"
	// volumeReleased names a claim that was deleted, by its UID, so that no claim can
	// bind it.
	volumeReleased volumeState = "released"
	// volumeUnclaimed could be bound, and no claim does.
	volumeUnclaimed volumeState = "unclaimed"
	volumeDeleting  volumeState = "deleting"
	volumeMissing   volumeState = "missing"
	// volumeUnknown was not read yet. Of one that cannot be read any more, the last state
	// stands.
	volumeUnknown volumeState = "unknown"
)

// stateOf judges a volume that was read.
func stateOf(pv *corev1.PersistentVolume) volumeState {
	switch {
	case pv.DeletionTimestamp != nil:
		return volumeDeleting
	case pv.Status.Phase == corev1.VolumeReleased && pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID != "":
		return volumeReleased
	case pv.Status.Phase == corev1.VolumeBound:
		return volumeBound
	}
	return volumeUnclaimed
}

// freeing is the merge patch by which any claim of the same namespace and name may
// bind the volume again, as if none ever had. It is a conflict if the volume has changed
// since it was read.
func freeing(pv *corev1.PersistentVolume) ([]byte, error) {
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pv.UID, "resourceVersion": pv.ResourceVersion},
		"spec":     map[string]any{"claimRef": map[string]any{"uid": nil, "resourceVersion": nil}},
	})
}

// volumesAPI is what a volumeKeeper needs of Kubernetes.
type volumesAPI interface {
	// volume reads one, not from a cache.
	volume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	// free applies [freeing].
	free(ctx context.Context, pv *corev1.PersistentVolume) error
	event(ctx context.Context, e event) error
}

// volumeKeeper frees volumes whose claim was deleted, and reports what it cannot heal.
// A pod that runs keeps its claim (the finalizer kubernetes.io/pvc-protection), and a
// volume is Released only once its claim is gone: no pod uses what is freed.
type volumeKeeper struct {
	api     volumesAPI
	logger  *slog.Logger
	release Release
	volumes []volumeMemory
	metrics *volumeMetrics
}

// volumeMemory is what is remembered of one.
type volumeMemory struct {
	Volume
	state volumeState
	since time.Time // in this state
	told  time.Time // when its trouble was last reported
	uid   types.UID
	// failing: the last look or patch failed; logged once.
	failing bool
}

func newVolumeKeeper(api volumesAPI, volumes []Volume, release Release, logger *slog.Logger) *volumeKeeper {
	k := &volumeKeeper{api: api, logger: logger, release: release, metrics: newVolumeMetrics()}
	for _, v := range volumes {
		k.volumes = append(k.volumes, volumeMemory{Volume: v, state: volumeUnknown})
	}
	k.metrics.show(k.volumes)
	return k
}

// run works until ctx ends.
func (k *volumeKeeper) run(ctx context.Context) {
	ticker := time.NewTicker(volumeInterval)
	defer ticker.Stop()
	for {
		k.round(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// round looks at every volume once.
func (k *volumeKeeper) round(ctx context.Context) {
	for i := range k.volumes {
		if ctx.Err() != nil {
			return
		}
		k.look(ctx, &k.volumes[i])
	}
	k.metrics.show(k.volumes)
}

// look reads a volume, frees it if it is to be, and reports what is wrong with it.
func (k *volumeKeeper) look(ctx context.Context, v *volumeMemory) {
	pv, err := bounded(ctx, func(ctx context.Context) (*corev1.PersistentVolume, error) { return k.api.volume(ctx, v.Name) })
	state := volumeMissing
	switch {
	case apierrors.IsNotFound(err):
		v.uid = ""
	case err != nil:
		k.fail(ctx, v, err)
		return
	default:
		state, v.uid = stateOf(pv), pv.UID
	}
	if state == volumeReleased {
		k.free(ctx, v, pv)
		return
	}
	v.failing = false
	now := time.Now()
	if state != v.state {
		v.state, v.since, v.told = state, now, time.Time{}
	}
	k.report(ctx, v, now)
}

// free lets another claim bind the volume; the next look tells whether one does.
func (k *volumeKeeper) free(ctx context.Context, v *volumeMemory, pv *corev1.PersistentVolume) {
	v.state, v.since = volumeReleased, time.Now()
	_, err := bounded(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, k.api.free(ctx, pv) })
	if err != nil {
		if !apierrors.IsConflict(err) { // somebody was faster
			k.metrics.repaired(resultFailed)
			k.fail(ctx, v, err)
		}
		return
	}
	v.failing = false
	k.metrics.repaired(resultDone)
	k.logger.Info("free volume", "volume", v.Name, "namespace", v.Namespace, "claim", v.Claim, "deleted_claim_uid", pv.Spec.ClaimRef.UID)
	k.write(ctx, v, event{
		Reason: EventVolumeFreed, Action: "FreeVolume", Time: time.Now(),
		Note: fmt.Sprintf("claim %s of namespace %s, which had bound it, was deleted: a claim of that name may bind it again", v.Claim, v.Namespace),
	})
}

// report writes an event about trouble, and again while it lasts.
func (k *volumeKeeper) report(ctx context.Context, v *volumeMemory, now time.Time) {
	e, bad := k.trouble(v, now)
	if !bad || (!v.told.IsZero() && now.Sub(v.told) < troubleEvery) {
		return
	}
	if v.told.IsZero() {
		k.logger.Warn("volume needs somebody", "volume", v.Name, "namespace", v.Namespace, "claim", v.Claim, "state", string(v.state), "note", e.Note)
	}
	v.told = now
	k.write(ctx, v, e)
}

func (k *volumeKeeper) trouble(v *volumeMemory, now time.Time) (event, bool) {
	e := event{Warning: true, Time: now, Action: "ReportVolume"}
	switch v.state {
	case volumeUnclaimed:
		if now.Sub(v.since) < claimGrace {
			return event{}, false
		}
		e.Reason = EventClaimMissing
		e.Note = fmt.Sprintf("no claim %s of namespace %s binds this volume, so pods there that need it stay Pending: %s"+
			" (a claim that is there and Lost is to be deleted first)", v.Claim, v.Namespace, Remake(k.release))
	case volumeDeleting:
		e.Reason = EventVolumeDeleted
		e.Note = fmt.Sprintf("it is being deleted, though the release lists namespace %s: it goes with the last pod there that mounts claim %s,"+
			" and new pods there stay Pending; then %s", v.Namespace, v.Claim, Remake(k.release))
	case volumeMissing:
		e.Reason = EventVolumeDeleted
		e.Note = fmt.Sprintf("it is gone, though the release lists namespace %s, so pods there that need claim %s stay Pending: %s",
			v.Namespace, v.Claim, Remake(k.release))
	default:
		return event{}, false
	}
	return e, true
}

// Remake is what makes missing volumes and claims of a release again.
func Remake(r Release) string {
	if r == (Release{}) {
		return "apply the chart again"
	}
	return fmt.Sprintf("apply the chart again, as by helm upgrade %s CHART --namespace %s --reuse-values", r.Name, r.Namespace)
}

// write writes an event about a volume; what it says is logged as well.
func (k *volumeKeeper) write(ctx context.Context, v *volumeMemory, e event) {
	e.Kind, e.Node, e.NodeUID = "PersistentVolume", v.Name, v.uid
	_, err := bounded(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, k.api.event(ctx, e) })
	if err != nil && ctx.Err() == nil {
		k.logger.Warn("write event", "reason", e.Reason, "volume", v.Name, "error", err)
	}
}

// fail notes what failed, and logs it once.
func (k *volumeKeeper) fail(ctx context.Context, v *volumeMemory, err error) {
	if ctx.Err() == nil && !v.failing {
		v.failing = true
		k.logger.Warn("keep volume", "volume", v.Name, "error", err)
	}
}

// bounded calls with a bound.
func bounded[T any](ctx context.Context, call func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return call(ctx)
}

func (k *kube) volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	pv, err := k.volumes.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, explain("read volume "+name, err)
	}
	return pv, nil
}

func (k *kube) free(ctx context.Context, pv *corev1.PersistentVolume) error {
	patch, err := freeing(pv)
	if err != nil {
		return fmt.Errorf("free volume %s: %w", pv.Name, err)
	}
	if _, err := k.volumes.Patch(ctx, pv.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
		return explain("free volume "+pv.Name, err)
	}
	return nil
}
