package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

// memoryBound is what a command may take of whatever it is given, in bytes: 256 MiB. The
// race detector keeps several bytes for each that is touched.
func memoryBound() int64 {
	most := int64(256 << 20)
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" && s.Value == "true" {
			most *= 2
		}
	}
	return most
}

// measured is the program itself, which writes its peak of memory last. Its parent
// cannot know it: by rusage a child took at least what its parent had.
func measured() {
	code := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	peak, _, _ = strings.Cut(peak, "kB")
	fmt.Fprintf(os.Stderr, "\npeak:%s\n", strings.TrimSpace(peak))
	os.Exit(code)
}

// peakOf splits what measured wrote to standard error: the program's own words, and its
// peak in bytes.
func peakOf(t *testing.T, stderr string) (text string, peak int64) {
	t.Helper()
	text, line, _ := strings.Cut(stderr, "\npeak:")
	kilobytes, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		t.Fatalf("no peak of memory in %q", stderr)
	}
	return text, kilobytes << 10
}
