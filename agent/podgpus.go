package agent

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// podOf reads what the agent needs from a pod.
func podOf(p *corev1.Pod) pod {
	out := pod{UID: string(p.UID), Phase: p.Status.Phase, Labels: p.Labels, GPUs: podGPUs(p)}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			out.Claims = append(out.Claims, v.PersistentVolumeClaim.ClaimName)
		}
	}
	return out
}

// podGPUs is the number of GPUs that the scheduler counts for a pod: the sum
// of its containers and sidecars, or the largest init container if that is
// more.
func podGPUs(p *corev1.Pod) int {
	var sum, sidecars, largestInit int64
	for _, c := range p.Spec.Containers {
		q, _ := gpusOf(c)
		sum += q.Value()
	}
	for _, c := range p.Spec.InitContainers {
		q, _ := gpusOf(c)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars += q.Value()
			continue
		}
		largestInit = max(largestInit, sidecars+q.Value())
	}
	return int(max(sum+sidecars, largestInit))
}

// gpusOf is what one container asks for. Extended resources have equal
// requests and limits; either may be given alone.
func gpusOf(c corev1.Container) (resource.Quantity, bool) {
	if q, ok := c.Resources.Limits[gpuResource]; ok {
		return q, true
	}
	q, ok := c.Resources.Requests[gpuResource]
	return q, ok
}
