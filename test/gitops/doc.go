// Package gitops tests what tools other than Helm make of the rendered chart. It is
// not part of the chart's own tests: kustomize's package brings Go's plugins, whose
// binaries resolve every symbol at the start, and NVML's are not there then.
package gitops
