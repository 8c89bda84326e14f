// Package ordeal holds what walks through faults have in common: the ways to the Hub
// and to the API server, which can be broken and which count; what may be done to a
// file; who reads a store, and a Node, as pods and people do; and steps that a seed
// chooses. It knows of Stoker what users are promised, and nothing of its packages, so
// that a mistake there cannot hide itself here.
//
// It is not for: what is done to an agent, and what is demanded of it. That is each
// walk's own.
package ordeal
