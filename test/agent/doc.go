// Package agent tests the node agent against a real API server: the labels,
// the annotation and the events that it claims, the order in which it unlabels
// and removes, and that the chart's rights are all that it needs. Everything is
// real but the GPUs, which are a simulated board.
package agent
