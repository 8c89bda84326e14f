package agent

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/agent/measure"
)

// metricsPort is the name of the container's port that serves a replica's metrics page.
const metricsPort = "http"

// replicaPod is a pod that may be a replica of vLLM, and is ready.
type replicaPod struct {
	Namespace string
	// Address is the pod's own; its port is 0 where the pod names none.
	Address netip.AddrPort
	// NodeAddresses are those of the node, which are no pod's own.
	NodeAddresses []netip.Addr
	// ReadyAt is since when it is, InitializedAt when its init containers had ended: what it loads was published before.
	ReadyAt, InitializedAt time.Time
	// Split is how the model is split over GPUs, as [measure.SplitArgs] keeps it.
	Split []string
	// VLLMVersion is the release that its image's tag names; empty: none.
	VLLMVersion string
}

// isReplica reports whether a container may run vLLM: the pod names a model, and the container has GPUs.
func isReplica(p *corev1.Pod, c corev1.Container) bool {
	return p.Labels[ModelLabel] != "" && gpusOf(c) > 0
}

// replicaOf reads from a pod what is needed to measure it; nil where it cannot be: it is not ready, shares the node's
// network, or has GPUs in several containers.
func replicaOf(p *corev1.Pod) *replicaPod {
	if p.Status.Phase != corev1.PodRunning || p.Spec.HostNetwork {
		return nil
	}
	at := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return isReplica(p, c) })
	ready, initialized := sinceWhen(p, corev1.PodReady), sinceWhen(p, corev1.PodInitialized)
	ip, err := netip.ParseAddr(p.Status.PodIP)
	if at < 0 || ready.IsZero() || initialized.IsZero() || err != nil {
		return nil
	}
	if slices.ContainsFunc(p.Spec.Containers[at+1:], func(c corev1.Container) bool { return isReplica(p, c) }) {
		return nil
	}
	c := p.Spec.Containers[at]
	r := &replicaPod{
		Namespace: p.Namespace, ReadyAt: ready, InitializedAt: initialized,
		Split: measure.SplitArgs(c.Command, c.Args), VLLMVersion: measure.ImageVersion(c.Image),
	}
	var port uint16
	for _, named := range httpPorts(c) {
		port = uint16(named.ContainerPort)
	}
	r.Address = netip.AddrPortFrom(ip, port)
	for _, host := range append(slices.Clone(p.Status.HostIPs), corev1.HostIP{IP: p.Status.HostIP}) {
		if a, err := netip.ParseAddr(host.IP); err == nil {
			r.NodeAddresses = append(r.NodeAddresses, a)
		}
	}
	return r
}

// sinceWhen is since when a pod's condition is true; zero: it is not.
func sinceWhen(p *corev1.Pod, kind corev1.PodConditionType) time.Time {
	for _, c := range p.Status.Conditions {
		if c.Type == kind && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// httpPorts are a container's TCP ports that are called metricsPort: at most one that can be.
func httpPorts(c corev1.Container) []corev1.ContainerPort {
	for _, port := range c.Ports {
		if port.Name == metricsPort && (port.Protocol == "" || port.Protocol == corev1.ProtocolTCP) && port.ContainerPort > 0 && port.ContainerPort <= 65535 {
			return []corev1.ContainerPort{{Name: metricsPort, ContainerPort: port.ContainerPort}}
		}
	}
	return nil
}

// keepReplica keeps of a container what replicaOf reads, and nothing that may be secret.
func keepReplica(from corev1.Container, to *corev1.Container) {
	to.Args = measure.SplitArgs(from.Command, from.Args)
	to.Image, to.Ports = measure.ImageVersion(from.Image), httpPorts(from)
}

// keptStatus is what replicaOf reads of a pod's status.
func keptStatus(s corev1.PodStatus) corev1.PodStatus {
	out := corev1.PodStatus{Phase: s.Phase, PodIP: s.PodIP, HostIP: s.HostIP, HostIPs: s.HostIPs}
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady || c.Type == corev1.PodInitialized {
			out.Conditions = append(out.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime})
		}
	}
	return out
}
