// Package placement proves, with the real scheduler and the chart's real
// admission policy, where pods land that name a model: on warm nodes while
// those have room, then on cold ones that can take them, and with a requirement
// nowhere else. Shares that depend on what competes are measured by its
// benchmarks and stand in docs/placement.md. The path of a pod on a cold node is
// walked with the real binary as agent and as init container.
package placement
