// Package measure runs a program and says what it cost as a process: wall clock
// and CPU seconds and the peak of its memory; and it makes medians and quartiles
// of such numbers. It knows nothing of what the programs do. Linux only.
package measure
