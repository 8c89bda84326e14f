// Package agent is the node agent: it keeps the models that the operator listed
// in this node's store, reads the GPUs' free memory, and says both on its Node,
// so that the ordinary scheduler finds warm nodes.
//
// It is a loop over state: observe (list, store, devices, pods here, the Node),
// plan (a pure function), act (pull, remove), say (labels, annotation, events,
// metrics, status files). Nothing that can hang runs on the loop: every call to
// a disk, a driver or the API server runs in a goroutine of its own with a
// bound, and a part that does not answer in time is unknown until it does.
//
// The promise of a label is ordered: a label is written only for a model whose
// published files were just checked, and bytes are removed or replaced only
// after the API server has confirmed that no label promises them.
//
// It is the only package that knows Kubernetes. It is not for: moving bytes
// (fetcher), the layout on disk (fetcher/store), reading devices (gpu), or
// anything about another node than its own.
package agent
