// Package faults proves that a warm label is worth trusting: the real agent, as
// a process of its own, works on a real ext4 against the real API server, while
// everything around it fails in an order that a seed decides. An independent
// checker compares the Node's labels with the bytes on the disk all the time.
//
// What it knows of Stoker is what pods and people are promised: the layout of
// the store and the keys on the Node. It uses nothing of the packages agent and
// fetcher/store, so that a mistake there cannot hide itself here.
//
// It is not for: how fast anything is, what one function does, or what only a
// GPU shows.
package faults
