// Package attacks runs the program against sources, directories, settings and stores
// that somebody prepared against it: an agent runs as root on every GPU node. Each
// attack is a row of one table, which `go test -v ./attacks` prints: what was sent, the
// command, its exit code, its memory at most, its seconds and what it wrote. None may
// hang, take more than 256 MiB, crash, write outside of its store, or publish other
// bytes than the right ones.
//
// Attacks on one package's own functions are tests of that package; docs/security.md
// lists them.
package attacks
