package inject

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stoker-project/stoker/agent"
)

// Result is what was found in an object or a file.
type Result struct {
	// Pods is how many pods and pod templates name a model, Injected how many
	// of them were changed.
	Pods, Injected int
	// Models are the models and adapters that they name, in the order in which
	// they stand.
	Models []string
	// Placements is what else than prefer and require they say of placement, Fits
	// what else than require of fits, and ServiceLinks what else than keep of
	// service links.
	Placements, Fits, ServiceLinks []string
	// TooMany is, of each pod that names more adapters than [agent.MaxAdapters], how many it names.
	TooMany []int
	// NotStrings are the labels and annotations of pods that name a model whose values
	// are no strings, each with the object it belongs to and with what to write.
	NotStrings []string
	// Taken is what keeps pods from being changed: containers that mount something of
	// their own where the store or the pin belongs.
	Taken []string
	// Unread are the objects that name a model and are of a kind whose pods are not
	// looked for, as KIND "NAME".
	Unread []string
}

// Object adds to every pod or pod template of an object what it needs: of
// pods, of Kubernetes' own controllers, of LeaderWorkerSets and others whose pod
// templates have a fixed place, and of lists of these. Other kinds stay as they are.
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

// ofKind adds to the pods of an object of a kind.
func (r *Result) ofKind(kind, group string, object map[string]any, o Options) {
	called := fmt.Sprintf("%s %q", kind, text(mapOf(object["metadata"])["name"]))
	pods, isRead := podsOf(kind, group, object)
	if !isRead && (labelsPods(object["spec"]) || group == kserve && namesModel(mapOf(object["metadata"])["labels"])) {
		r.Unread = append(r.Unread, called)
	}
	for _, p := range pods {
		r.pod(called, p, o)
	}
}

// kserve is a group whose objects hand their own labels on to their pods.
const kserve = "serving.kserve.io"

// podsOf returns the pod, or the pod templates, of an object: what has metadata and
// spec. isRead is false for kinds of which it knows none.
func podsOf(kind, group string, object map[string]any) (pods []map[string]any, isRead bool) {
	spec := mapOf(object["spec"])
	switch group + "/" + kind {
	case "/Pod":
		return []map[string]any{object}, true
	case "/PodTemplate":
		return templates(object), true
	case "apps/Deployment", "apps/StatefulSet", "apps/DaemonSet", "apps/ReplicaSet", "batch/Job", "/ReplicationController",
		"argoproj.io/Rollout", "serving.knative.dev/Service":
		return templates(spec), true
	case "batch/CronJob":
		return templates(mapOf(mapOf(spec["jobTemplate"])["spec"])), true
	case "leaderworkerset.x-k8s.io/LeaderWorkerSet":
		both := mapOf(spec["leaderWorkerTemplate"])
		return []map[string]any{mapOf(both["leaderTemplate"]), mapOf(both["workerTemplate"])}, true
	case "jobset.x-k8s.io/JobSet":
		for _, job := range listOf(spec["replicatedJobs"]) {
			pods = append(pods, templates(mapOf(mapOf(mapOf(job)["template"])["spec"]))...)
		}
		return pods, true
	case "ray.io/RayCluster":
		return ofRayCluster(spec), true
	case "ray.io/RayService":
		return ofRayCluster(mapOf(spec["rayClusterConfig"])), true
	case "ray.io/RayJob":
		return ofRayCluster(mapOf(spec["rayClusterSpec"])), true
	}
	return nil, false
}

// templates is the pod template of whatever has one.
func templates(of map[string]any) []map[string]any { return []map[string]any{mapOf(of["template"])} }

func ofRayCluster(spec map[string]any) []map[string]any {
	pods := templates(mapOf(spec["headGroupSpec"]))
	for _, group := range listOf(spec["workerGroupSpecs"]) {
		pods = append(pods, templates(mapOf(group))...)
	}
	return pods
}

// labelsPods reports whether labels that name a model stand anywhere in a part of an
// object, as they do for its pods. What selects pods has no labels of that name.
func labelsPods(part any) bool {
	switch part := part.(type) {
	case map[string]any:
		if namesModel(part["labels"]) {
			return true
		}
		for _, v := range part {
			if labelsPods(v) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(part, labelsPods)
	}
	return false
}

func namesModel(labels any) bool { return text(mapOf(labels)[agent.ModelLabel]) != "" }

// pod is a pod or a pod template: something with metadata and spec. called is what the
// object is called that it belongs to.
func (r *Result) pod(called string, p map[string]any, o Options) {
	meta, spec := mapOf(p["metadata"]), mapOf(p["spec"])
	if mapOf(meta["labels"])[agent.ModelLabel] == nil {
		return
	}
	for _, n := range notStrings(meta) {
		r.NotStrings = append(r.NotStrings, called+": "+n)
	}
	if !namesModel(meta["labels"]) {
		return
	}
	r.Pods++
	r.Models = append(r.Models, text(mapOf(meta["labels"])[agent.ModelLabel]))
	annotations := mapOf(meta["annotations"])
	adapters := agent.Adapters(text(annotations[agent.AdaptersAnnotation]))
	r.Models = append(r.Models, adapters...)
	if n := len(adapters); n > agent.MaxAdapters {
		r.TooMany = append(r.TooMany, n)
	}
	if placement := text(annotations[PlacementAnnotation]); placement != "" && placement != Require && placement != "prefer" {
		r.Placements = append(r.Placements, placement)
	}
	if fits := text(annotations[FitsAnnotation]); fits != "" && fits != Require {
		r.Fits = append(r.Fits, fits)
	}
	if links := text(annotations[ServiceLinksAnnotation]); links != "" && links != Keep {
		r.ServiceLinks = append(r.ServiceLinks, links)
	}
	taken := takenPaths(spec)
	if !Pod(meta, spec, o) {
		return
	}
	r.Injected++
	for _, t := range taken {
		r.Taken = append(r.Taken, called+": "+t)
	}
}

// notStrings returns what to say of a pod's labels and annotations whose values YAML does
// not read as strings. The API server refuses them, and does not name the key. Nothing is a
// string: it is empty.
func notStrings(meta map[string]any) []string {
	var odd []string
	right := rightValues()
	for _, kind := range []string{"annotation", "label"} {
		all := mapOf(meta[kind+"s"])
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if _, ok := all[key].(string); ok || all[key] == nil {
				continue
			}
			value, err := json.Marshal(all[key])
			if err != nil {
				value = []byte("something else") // which nothing that was read as YAML is
			}
			write, known := right[key]
			if !known || kind == "label" {
				write = "put it in quotes"
			}
			odd = append(odd, fmt.Sprintf("%s %s is %s, which is no string; %s", kind, key, value, write))
		}
	}
	return odd
}

// rightValues are what Stoker's annotations take.
func rightValues() map[string]string {
	return map[string]string{
		PlacementAnnotation:      `write "prefer" or "require"`,
		FitsAnnotation:           `write "require", or leave it out`,
		ServiceLinksAnnotation:   `write "keep", or leave it out`,
		agent.AdaptersAnnotation: `write names with commas between them: "a,b"`,
	}
}

func (r *Result) add(other Result) {
	r.Pods += other.Pods
	r.Injected += other.Injected
	r.Models = append(r.Models, other.Models...)
	r.TooMany = append(r.TooMany, other.TooMany...)
	r.Placements = append(r.Placements, other.Placements...)
	r.Fits = append(r.Fits, other.Fits...)
	r.ServiceLinks = append(r.ServiceLinks, other.ServiceLinks...)
	r.NotStrings = append(r.NotStrings, other.NotStrings...)
	r.Taken = append(r.Taken, other.Taken...)
	r.Unread = append(r.Unread, other.Unread...)
}
