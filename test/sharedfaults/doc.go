// Package sharedfaults proves that a label is worth trusting where nodes share a
// volume: several agents, the real binary, each with a mount of its own whose caches
// and locks are as weak as a network's, work against the real API server, while
// agents, mounts, files, the Hub and the API server fail in an order that a seed
// decides. A checker that knows of Stoker what pods and people are promised compares
// each Node's labels with what that node's own mount shows, and every change of the
// volume with who may make it.
//
// It is not for: what a node's own disk does (package faults), what a real network
// file system does, how fast anything is.
package sharedfaults
