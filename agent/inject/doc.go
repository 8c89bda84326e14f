// Package inject adds to pods what a pod needs that names a model: the volume,
// the init container that waits for the model, the variables and the affinity
// to warm nodes. It is what the chart's MutatingAdmissionPolicy does in the
// API server, for those who would rather have it in their manifests; a test
// against the real API server compares the two object by object.
//
// [Pod] works on one pod or pod template, [Object] on any object that has some,
// [File] on a file of YAML documents.
//
// It is not for: deciding where a pod may run beyond that, and reading or
// writing clusters.
package inject
