// Package charts renders the project's Helm charts with Helm's own code and
// applies the result to a cluster: charts/stoker and charts/vllm as `helm
// install` would, less what only a release has. The demo, the end-to-end tests and the charts'
// tests share it.
//
// It is not an installer: it keeps no release, runs no hooks and deletes
// nothing.
package charts
