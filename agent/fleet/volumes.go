package fleet

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/kubeclient"
)

// claimName is that of every claim of the chart's by which pods mount the store.
const claimName = "stoker-models"

// What keeps pods of a namespace from mounting the store.
const (
	// VolumeReleased is held for a claim that was deleted.
	VolumeReleased = "released"
	// VolumeUnclaimed is bound by no claim.
	VolumeUnclaimed = "unclaimed"
	// VolumeDeleting goes when the last pod ends that mounts it.
	VolumeDeleting = "deleting"
	// VolumeMissing is not there.
	VolumeMissing = "missing"
)

// Volume is a PersistentVolume of the chart's that pods cannot use.
type Volume struct {
	// Name of the volume; empty: there is none.
	Name string `json:"name,omitempty"`
	// Namespace and Claim are whom it is for.
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// State is one of the Volume constants.
	State string `json:"state"`
	// Hint says what to do.
	Hint string `json:"hint"`
}

// Volumes is what [ListVolumes] read.
type Volumes struct {
	// PVs are the chart's PersistentVolumes, Releases what each release has in its list.
	PVs      []corev1.PersistentVolume
	Releases []ReleaseNamespaces
}

// ReleaseNamespaces are the namespaces whose pods may mount a release's store.
type ReleaseNamespaces struct {
	// Release is NAMESPACE/NAME, as the chart wrote it.
	Release    string
	Namespaces []string
}

// chartLabel is Helm's customary label of a chart, NAME-VERSION.
const chartLabel = "helm.sh/chart"

var stokerChart = regexp.MustCompile(`^stoker-[0-9]`)

// ListVolumes reads the chart's PersistentVolumes, and the metadata of its
// ValidatingAdmissionPolicies, where each release names its namespaces. It needs the
// right to list both. The error is the API server's.
func ListVolumes(ctx context.Context, cfg *rest.Config) (Volumes, error) {
	cfg = patient(cfg)
	client, err := kubeclient.New(cfg)
	if err != nil {
		return Volumes{}, err
	}
	var out Volumes
	pvs, err := client.PersistentVolumes().List(ctx, metav1.ListOptions{LabelSelector: chartLabel})
	if err != nil {
		return Volumes{}, fmt.Errorf("list volumes: %w", err)
	}
	for _, pv := range pvs.Items {
		if stokerChart.MatchString(pv.Labels[chartLabel]) {
			out.PVs = append(out.PVs, pv)
		}
	}
	meta, err := metadata.NewForConfig(cfg)
	if err != nil {
		return Volumes{}, fmt.Errorf("list policies: %w", err)
	}
	policies, err := meta.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"}).
		List(ctx, metav1.ListOptions{LabelSelector: chartLabel})
	if err != nil {
		return Volumes{}, fmt.Errorf("list policies: %w", err)
	}
	for _, p := range policies.Items {
		namespaces := p.Annotations[agent.NamespacesAnnotation]
		if namespaces == "" || !stokerChart.MatchString(p.Labels[chartLabel]) {
			continue
		}
		out.Releases = append(out.Releases, ReleaseNamespaces{Release: p.Annotations[agent.ReleaseAnnotation], Namespaces: strings.Split(namespaces, ",")})
	}
	return out, nil
}

// Add puts the volumes that somebody should look at into the fleet.
func (f *Fleet) Add(v Volumes) {
	releases := map[string]string{} // by namespace
	for _, r := range v.Releases {
		for _, ns := range r.Namespaces {
			releases[ns] = r.Release
		}
	}
	there := map[string]bool{}
	for i := range v.PVs {
		pv := &v.PVs[i]
		claim := pv.Spec.ClaimRef
		if claim == nil || claim.Name != claimName {
			continue
		}
		release, listed := releases[claim.Namespace]
		if !listed {
			continue // it is about to go, or nobody says that it should be there
		}
		there[claim.Namespace] = true
		if state := volumeState(pv); state != "" {
			f.Volumes = append(f.Volumes, Volume{
				Name: pv.Name, Namespace: claim.Namespace, Claim: claim.Name, State: state, Hint: volumeHint(state, pv.Name, release),
			})
		}
	}
	for _, ns := range slices.Sorted(maps.Keys(releases)) {
		if !there[ns] {
			f.Volumes = append(f.Volumes, Volume{Namespace: ns, Claim: claimName, State: VolumeMissing, Hint: volumeHint(VolumeMissing, "", releases[ns])})
		}
	}
	slices.SortFunc(f.Volumes, func(a, b Volume) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}

// volumeState is empty where all is well.
func volumeState(pv *corev1.PersistentVolume) string {
	switch {
	case pv.DeletionTimestamp != nil:
		return VolumeDeleting
	case pv.Status.Phase == corev1.VolumeBound:
		return ""
	case pv.Spec.ClaimRef.UID != "" && pv.Status.Phase == corev1.VolumeReleased:
		return VolumeReleased
	}
	return VolumeUnclaimed
}

// volumeHint is what to do about a volume.
func volumeHint(state, name, release string) string {
	again := "apply the chart again"
	if namespace, name, ok := strings.Cut(release, "/"); ok {
		again += fmt.Sprintf(": helm upgrade %s CHART --namespace %s --reuse-values", name, namespace)
	}
	switch state {
	case VolumeReleased:
		return "the sweeper frees it within a minute; if it does not: kubectl patch pv " + name + ` --type=json` +
			` -p '[{"op":"remove","path":"/spec/claimRef/uid"},{"op":"remove","path":"/spec/claimRef/resourceVersion"}]'; if the claim is gone, ` + again
	case VolumeDeleting:
		return "it goes when the last pod ends that mounts it, and new pods stay Pending; then " + again
	}
	return again
}

// writeVolumes lists the volumes that pods cannot use, with whole commands.
func (f *Fleet) writeVolumes(w io.Writer) error {
	if len(f.Volumes) == 0 {
		return nil
	}
	if err := note(w, "Pods of these namespaces cannot mount the store:"); err != nil {
		return err
	}
	var t table
	t.add("NAMESPACE", "VOLUME", "STATE", "WHAT TO DO")
	for _, v := range f.Volumes {
		t.add(v.Namespace, v.Name, v.State, v.Hint)
	}
	return writeAll(w, t)
}
