// Command bench compares `stoker pull` with other ways of getting the same
// files: with the least that such a program can do, and with the tools that
// people use. `make bench` runs it and writes its tables into bench/README.md,
// which says how it measures. Linux only.
//
// It is not a test: it fails when it cannot measure, not when a number is bad.
package main
