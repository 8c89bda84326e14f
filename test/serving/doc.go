// Package serving holds what the tests of charts/vllm run its rules, dashboards
// and autoscaling with: a real Prometheus, and a stand-in for vLLM's /metrics
// that has the names of the release it is told to be.
//
// It is not for: rendering charts (package charts), and requests to models. No
// model is served.
package serving
