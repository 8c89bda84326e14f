// Package shared runs several agents, as the real binary, on one volume against a
// real API server. It holds tests only.
package shared
