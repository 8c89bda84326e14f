// Package fleet tests `stoker status` and `stoker explain` against a real API
// server: the binary, under an account that may list nodes and nothing else,
// reads what a real agent has said, and what others have put on Nodes.
package fleet
