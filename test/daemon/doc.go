// Package daemon builds the real binary and runs it as one Node's agent, a process
// that does not outlive the tests: what it logs, whether it is healthy, what its
// metrics say. What it is given, and what is made of it, is the tests' own.
package daemon
