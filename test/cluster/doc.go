// Package cluster starts and stops a real Kubernetes control plane on loopback: etcd, kube-apiserver,
// kube-controller-manager and kube-scheduler as child processes, built from the pinned modules of ../controlplane.
//
// Tests and the demo use it wherever a label, an event, an admission policy or a placement is claimed, so that what
// they claim was decided by the code that decides it in production. It needs Go and nothing else: no root, no
// container engine, no cluster.
//
// It is not a cluster that runs anything. There is no kubelet and no network: Nodes are objects made by AddNode, pods
// are bound to them by the real scheduler and stay Pending, and a deleted pod that was bound goes only when it is
// deleted with a grace period of zero.
package cluster
