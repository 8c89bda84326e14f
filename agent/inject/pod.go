package inject

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/stoker-project/stoker/agent"
)

// Names that a pod gets. They are part of the contract with the chart.
const (
	// Waiter is the init container; a pod that has one of this name is left
	// alone.
	Waiter = "stoker-wait"
	// StoreVolume is the volume with the models, and the claim behind it.
	StoreVolume = "stoker-models"
	// PinVolume is the volume with the link to the pinned revision.
	PinVolume = "stoker-pin"
	// StorePath and PinPath are where containers see them.
	StorePath = "/models"
	PinPath   = "/stoker"
	// PlacementAnnotation says whether a pod prefers warm nodes or requires
	// one: prefer (the default, and whatever else it says) or require.
	PlacementAnnotation = agent.Domain + "/placement"
	// FitsAnnotation with the value require keeps a pod away from nodes that say
	// that no replica fits; those that say nothing of it stay possible.
	FitsAnnotation = agent.Domain + "/fits"
	// Require is the annotations' value that makes a requirement.
	Require = "require"
	// ServiceLinksAnnotation with the value keep leaves enableServiceLinks as it is.
	ServiceLinksAnnotation = agent.Domain + "/service-links"
	// Keep is that annotation's value.
	Keep = "keep"
)

// DefaultUser is whom the init container runs as unless told otherwise: nobody's
// number in particular.
const DefaultUser = 65532

// mirror marks pods that a kubelet made from a file: nothing can be added.
const mirror = "kubernetes.io/config.mirror"

// Options are what the chart has as values.
type Options struct {
	// Image of the init container, and when it is pulled (Always, IfNotPresent
	// or Never).
	Image, PullPolicy string
	// CPU and Memory are quantities: the init container's requests and its
	// limits, which are the same, so that a Guaranteed pod stays one.
	CPU, Memory string
	// User is the init container's uid and gid. 0 leaves them out: the namespace
	// gives them, as OpenShift's do, or the image's, which are DefaultUser.
	User int64
	// WeightWarm is the weight, 1 to 100, of the preference for warm nodes.
	WeightWarm int
	// WeightFits, WeightRAM and WeightIdle are those of the preferences for warm
	// nodes where a replica fits, for those that have the model in memory, and
	// for nodes, warm or not, that have an idle GPU. 0 leaves one out.
	WeightFits, WeightRAM, WeightIdle int
	// RequireFits: a pod that requires a warm node also requires that a replica
	// fits there.
	RequireFits bool
}

// Pod adds to a pod, or to a pod template, what it needs. It says whether it
// changed anything: not if the pod names no model, or was injected before.
// What the pod has already stays. meta and spec are changed in place.
func Pod(meta, spec map[string]any, o Options) bool {
	model := text(mapOf(meta["labels"])[agent.ModelLabel])
	annotations := mapOf(meta["annotations"])
	_, mirrored := annotations[mirror]
	if model == "" || mirrored || spec == nil || named(listOf(spec["initContainers"]), Waiter) {
		return false
	}
	addVolumes(spec)
	for _, c := range listOf(spec["containers"]) {
		if container := mapOf(c); container != nil {
			addToContainer(container)
		}
	}
	adapters := agent.Adapters(text(annotations[agent.AdaptersAnnotation]))
	spec["initContainers"] = append([]any{waiter(model, adapters, o)}, listOf(spec["initContainers"])...)
	wants := demands{
		warm: text(annotations[PlacementAnnotation]) == Require,
		fits: text(annotations[FitsAnnotation]) == Require,
	}
	addAffinity(spec, model, wants, o)
	// A Service called vllm gives every later pod of its namespace VLLM_PORT=tcp://..., and
	// vLLM, which reads a port there, ends (vLLM 0.33: envs.get_vllm_port).
	if spec["enableServiceLinks"] == nil && text(annotations[ServiceLinksAnnotation]) != Keep {
		spec["enableServiceLinks"] = false
	}
	return true
}

// cleaned is the path at which a runtime mounts: the kubelet takes a relative one from the
// root (pkg/kubelet/kubelet_pods.go, makeMounts). It is empty where none is given.
func cleaned(mount any) string {
	p := text(mapOf(mount)["mountPath"])
	if p == "" {
		return ""
	}
	return path.Clean("/" + p)
}

// within reports whether p is dir or a path below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// takenPaths returns, for each mount with which a container puts a volume of the pod's own
// where the store or the pin belongs, or a volume over all, what to say. Of such a container
// the variables would lead nowhere. The store under another name of its volume is the store.
func takenPaths(spec map[string]any) []string {
	stores := map[string]bool{StoreVolume: true}
	for _, v := range listOf(spec["volumes"]) {
		volume := mapOf(v)
		if text(mapOf(volume["persistentVolumeClaim"])["claimName"]) == StoreVolume {
			stores[text(volume["name"])] = true
		}
	}
	var taken []string
	for _, c := range listOf(spec["containers"]) {
		container := mapOf(c)
		for _, m := range listOf(container["volumeMounts"]) {
			volume, p, instead := text(mapOf(m)["name"]), cleaned(m), ""
			switch {
			case p == "/":
			case within(p, StorePath) && !stores[volume]:
				instead = ", or call it " + StoreVolume + " if it is the store"
			case !within(p, PinPath) || volume == PinVolume:
				continue
			}
			taken = append(taken, fmt.Sprintf("container %q mounts its volume %q at %s, where Stoker's belongs: mount it elsewhere%s", text(container["name"]), volume, p, instead))
		}
	}
	return taken
}

func addVolumes(spec map[string]any) {
	volumes := listOf(spec["volumes"])
	if !named(volumes, StoreVolume) {
		volumes = append(volumes, map[string]any{
			"name":                  StoreVolume,
			"persistentVolumeClaim": map[string]any{"claimName": StoreVolume, "readOnly": true},
		})
	}
	if !named(volumes, PinVolume) {
		volumes = append(volumes, map[string]any{"name": PinVolume, "emptyDir": map[string]any{}})
	}
	spec["volumes"] = volumes
}

// mounts are those of the pod's own containers; the pin is written only by the
// init container.
func mounts() []map[string]any {
	return []map[string]any{
		{"name": StoreVolume, "mountPath": StorePath, "readOnly": true},
		{"name": PinVolume, "mountPath": PinPath, "readOnly": true},
	}
}

func environment() []map[string]any {
	return []map[string]any{
		{"name": "HF_HUB_OFFLINE", "value": "1"},
		{"name": "TRANSFORMERS_OFFLINE", "value": "1"},
		{"name": "HF_HUB_CACHE", "value": StorePath + "/hub"},
	}
}

// addToContainer leaves a place that is taken, and a variable that is set, as
// they are. A mount below the place leaves room for the store around it.
func addToContainer(c map[string]any) {
	have := listOf(c["volumeMounts"])
	for _, m := range mounts() {
		taken := slices.ContainsFunc(have, func(h any) bool { return cleaned(h) == m["mountPath"] })
		if !taken {
			have = append(have, m)
		}
	}
	c["volumeMounts"] = have
	env := listOf(c["env"])
	for _, e := range environment() {
		if !named(env, text(e["name"])) {
			env = append(env, e)
		}
	}
	c["env"] = env
}

// waiter meets the restricted Pod Security level by itself.
func waiter(model string, adapters []string, o Options) map[string]any {
	args := []any{"wait", model}
	for _, name := range adapters {
		args = append(args, name)
	}
	args = append(args, "--store="+StorePath, "--pin="+PinPath)
	resources := func() map[string]any { return map[string]any{"cpu": o.CPU, "memory": o.Memory} }
	securityContext := map[string]any{
		"runAsNonRoot":             true,
		"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
		"capabilities":   map[string]any{"drop": []any{"ALL"}},
		"seccompProfile": map[string]any{"type": "RuntimeDefault"},
	}
	if o.User != 0 {
		securityContext["runAsUser"], securityContext["runAsGroup"] = o.User, o.User
	}
	return map[string]any{
		"name":            Waiter,
		"image":           o.Image,
		"imagePullPolicy": o.PullPolicy,
		"args":            args,
		"resources":       map[string]any{"requests": resources(), "limits": resources()},
		"securityContext": securityContext,
		"volumeMounts": []any{
			map[string]any{"name": StoreVolume, "mountPath": StorePath, "readOnly": true},
			map[string]any{"name": PinVolume, "mountPath": PinPath},
		},
	}
}

const (
	required  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferred = "preferredDuringSchedulingIgnoredDuringExecution"
)

// demands are what a pod's annotations require of a node.
type demands struct {
	warm, fits bool
}

// addAffinity prefers warm nodes also where one is required: the preferences
// that tell warm nodes apart would be all that counts, and outweigh everything.
func addAffinity(spec map[string]any, model string, wants demands, o Options) {
	affinity := child(spec, "affinity")
	node := child(affinity, "nodeAffinity")
	warm, fits := agent.WarmPrefix+model, agent.FitsPrefix+model
	terms := listOf(node[preferred])
	prefer := func(weight int, expressions ...any) {
		if weight > 0 {
			terms = append(terms, map[string]any{"weight": int64(weight), "preference": map[string]any{"matchExpressions": expressions}})
		}
	}
	prefer(o.WeightWarm, expression(warm, "Exists"))
	prefer(o.WeightFits, expression(warm, "Exists"), expression(fits, "Gt", "0"))
	prefer(o.WeightRAM, expression(warm, "In", agent.TierRAM))
	prefer(o.WeightIdle, expression(agent.IdleLabel, "Gt", "0"))
	node[preferred] = terms

	var required []any
	if wants.warm {
		required = append(required, expression(warm, "Exists"))
	}
	switch {
	case wants.warm && o.RequireFits:
		required = append(required, expression(fits, "Gt", "0"))
	case wants.fits:
		required = append(required, expression(fits, "NotIn", "0"))
	}
	if len(required) > 0 {
		requireAll(node, required)
	}
}

// expression is one demand on a node's labels.
func expression(key, operator string, values ...any) map[string]any {
	e := map[string]any{"key": key, "operator": operator}
	if len(values) > 0 {
		e["values"] = values
	}
	return e
}

// requireAll adds expressions to each of the pod's own terms, of which a node
// has to match one. A term without anything matches no node, and stays so.
func requireAll(node map[string]any, expressions []any) {
	own := mapOf(node[required])
	if own == nil {
		node[required] = map[string]any{"nodeSelectorTerms": []any{map[string]any{"matchExpressions": expressions}}}
		return
	}
	for _, t := range listOf(own["nodeSelectorTerms"]) {
		term := mapOf(t)
		if len(listOf(term["matchExpressions"])) > 0 || len(listOf(term["matchFields"])) > 0 {
			term["matchExpressions"] = append(listOf(term["matchExpressions"]), expressions...)
		}
	}
}

// child returns the mapping under a key, and makes it where there is none.
func child(of map[string]any, key string) map[string]any {
	m := mapOf(of[key])
	if m == nil {
		m = map[string]any{}
		of[key] = m
	}
	return m
}

// mapOf, listOf and text return nothing for what is not there or of another
// kind: the API server refuses that better than this program could.
func mapOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

func listOf(v any) []any {
	l, _ := v.([]any)
	return l
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// named says whether an element of the list has the name.
func named(list []any, name string) bool {
	return slices.ContainsFunc(list, func(v any) bool { return text(mapOf(v)["name"]) == name })
}
