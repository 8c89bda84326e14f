package inject

import (
	"strings"

	"github.com/stoker-project/stoker/agent"
)

// Result is what was found in an object or a file.
type Result struct {
	// Pods is how many pods and pod templates name a model, Injected how many
	// of them were changed.
	Pods, Injected int
	// Models are the models that they name, in the order in which they stand.
	Models []string
	// Placements is what else than prefer and require they say of placement, and
	// Fits what else than require of fits.
	Placements, Fits []string
}

// Object adds to every pod or pod template of an object what it needs: of
// pods, of Kubernetes' own controllers, of LeaderWorkerSets, and of lists of
// these. Other kinds stay as they are.
func Object(object map[string]any, o Options) Result {
	var r Result
	r.object(object, o)
	return r
}

func (r *Result) object(object map[string]any, o Options) {
	if kind := text(object["kind"]); strings.HasSuffix(kind, "List") && object["items"] != nil {
		for _, item := range listOf(object["items"]) {
			m := mapOf(item)
			if m != nil && text(m["kind"]) == "" {
				// In a DeploymentList the items need not say that they are one.
				r.ofKind(strings.TrimSuffix(kind, "List"), groupOf(text(object["apiVersion"])), m, o)
				continue
			}
			r.object(m, o)
		}
		return
	}
	r.ofKind(text(object["kind"]), groupOf(text(object["apiVersion"])), object, o)
}

// groupOf is the API group of an apiVersion.
func groupOf(apiVersion string) string {
	group, _, found := strings.Cut(apiVersion, "/")
	if !found {
		return ""
	}
	return group
}

// ofKind finds the pods in an object of a kind.
func (r *Result) ofKind(kind, group string, object map[string]any, o Options) {
	spec := mapOf(object["spec"])
	switch group + "/" + kind {
	case "/Pod":
		r.pod(object, o)
	case "/PodTemplate":
		r.pod(mapOf(object["template"]), o)
	case "apps/Deployment", "apps/StatefulSet", "apps/DaemonSet", "apps/ReplicaSet", "batch/Job", "/ReplicationController":
		r.pod(mapOf(spec["template"]), o)
	case "batch/CronJob":
		job := mapOf(mapOf(spec["jobTemplate"])["spec"])
		r.pod(mapOf(job["template"]), o)
	case "leaderworkerset.x-k8s.io/LeaderWorkerSet":
		both := mapOf(spec["leaderWorkerTemplate"])
		r.pod(mapOf(both["leaderTemplate"]), o)
		r.pod(mapOf(both["workerTemplate"]), o)
	}
}

// pod is a pod or a pod template: something with metadata and spec.
func (r *Result) pod(p map[string]any, o Options) {
	meta := mapOf(p["metadata"])
	model := text(mapOf(meta["labels"])[agent.ModelLabel])
	if model == "" {
		return
	}
	r.Pods++
	r.Models = append(r.Models, model)
	if placement := text(mapOf(meta["annotations"])[PlacementAnnotation]); placement != "" && placement != Require && placement != "prefer" {
		r.Placements = append(r.Placements, placement)
	}
	if fits := text(mapOf(meta["annotations"])[FitsAnnotation]); fits != "" && fits != Require {
		r.Fits = append(r.Fits, fits)
	}
	if Pod(meta, mapOf(p["spec"]), o) {
		r.Injected++
	}
}

func (r *Result) add(other Result) {
	r.Pods += other.Pods
	r.Injected += other.Injected
	r.Models = append(r.Models, other.Models...)
	r.Placements = append(r.Placements, other.Placements...)
	r.Fits = append(r.Fits, other.Fits...)
}
