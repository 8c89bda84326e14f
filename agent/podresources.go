package agent

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// podOf reads what the agent needs from a pod.
func podOf(p *corev1.Pod) pod {
	out := pod{UID: string(p.UID), Phase: p.Status.Phase, Labels: p.Labels, Adapters: adaptersOf(p), GPUs: podGPUs(p), GPUParts: hasGPUParts(p), Memory: podMemory(p), Created: p.CreationTimestamp.Time}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			out.Claims = append(out.Claims, v.PersistentVolumeClaim.ClaimName)
		}
	}
	out.Replica = replicaOf(p)
	return out
}

// podGPUs is the number of GPUs that the scheduler counts for a pod.
func podGPUs(p *corev1.Pod) int { return int(counted(p, gpusOf)) }

// podMemory is how much memory the scheduler counts for a pod, in bytes.
func podMemory(p *corev1.Pod) int64 {
	sum := counted(p, func(c corev1.Container) int64 { return c.Resources.Requests.Memory().Value() })
	if r := p.Spec.Resources; r != nil {
		if whole, ok := r.Requests[corev1.ResourceMemory]; ok {
			sum = whole.Value() // asked for by the pod as a whole
		}
	}
	return sum + p.Spec.Overhead.Memory().Value()
}

// counted is what the scheduler counts of what containers ask for: the sum of the
// containers and sidecars, or the largest init container if that is more.
func counted(p *corev1.Pod, of func(corev1.Container) int64) int64 {
	var sum, sidecars, largestInit int64
	for _, c := range p.Spec.Containers {
		sum += of(c)
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars += of(c)
			continue
		}
		largestInit = max(largestInit, sidecars+of(c))
	}
	return max(sum+sidecars, largestInit)
}

// hasGPUParts says whether the pod was given, or may have been given, something
// of a GPU that is not counted in whole GPUs.
func hasGPUParts(p *corev1.Pod) bool {
	if len(p.Spec.ResourceClaims) > 0 {
		return true
	}
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range list {
			for name := range gpuRequests(c) {
				if name != gpuResource {
					return true
				}
			}
		}
	}
	return false
}

// gpusOf is how many of gpuResource one container asks for.
func gpusOf(c corev1.Container) int64 {
	q := gpuRequests(c)[gpuResource]
	return q.Value()
}

// gpuRequests is what one container asks for of NVIDIA's resources. Extended
// resources have equal requests and limits; either may be given alone.
func gpuRequests(c corev1.Container) corev1.ResourceList {
	var out corev1.ResourceList
	for _, list := range []corev1.ResourceList{c.Resources.Requests, c.Resources.Limits} {
		for name, q := range list {
			if strings.HasPrefix(string(name), gpuVendor) && !q.IsZero() {
				if out == nil {
					out = corev1.ResourceList{}
				}
				out[name] = q
			}
		}
	}
	return out
}

// keptRequests is what one container asks for, as far as the agent counts it.
func keptRequests(c corev1.Container) corev1.ResourceList {
	out := gpuRequests(c)
	for name, q := range onlyMemory(c.Resources.Requests) {
		if out == nil {
			out = corev1.ResourceList{}
		}
		out[name] = q
	}
	return out
}

// onlyMemory leaves the memory of a list; nil if it has none.
func onlyMemory(list corev1.ResourceList) corev1.ResourceList {
	if q, ok := list[corev1.ResourceMemory]; ok && !q.IsZero() {
		return corev1.ResourceList{corev1.ResourceMemory: q}
	}
	return nil
}
