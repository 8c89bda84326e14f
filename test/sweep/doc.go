// Package sweep tests against a real API server that labels go from nodes
// without an agent and from no others, that the sweeper's account can do nothing
// else to a Node, and that uninstalling leaves no label behind. Agents' pods are
// those of the chart's DaemonSet, bound by the real scheduler; that they are
// ready or not is written by the tests in the kubelet's place.
package sweep
