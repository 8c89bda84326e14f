//go:build linux

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/bench/measure"
)

// The server is this program: here, the test's.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serveCommand {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// programs builds what is measured.
func programs(t *testing.T) (stoker, floor string) {
	t.Helper()
	dir := t.TempDir()
	for _, args := range [][]string{
		{"-ldflags", "-s -w -extldflags=-Wl,-z,lazy", "-o", dir, "../cmd/stoker"},
		{"-o", dir, "./floor"},
	} {
		args = append([]string{"build", "-tags", "disable_grpc_modules,grpcnotrace", "-trimpath", "-buildvcs=false"}, args...)
		if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
	return filepath.Join(dir, "stoker"), filepath.Join(dir, "floor")
}

// The whole way from flags to a table, small and with nobody else's programs.
func TestBench(t *testing.T) {
	stoker, floor := programs(t)
	dir := t.TempDir()
	killed := filepath.Join(dir, workPrefix+"killed")
	if err := os.Mkdir(killed, 0o755); err != nil {
		t.Fatal(err)
	}
	readme := filepath.Join(dir, "README.md")
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(readme, page, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"-stoker", stoker, "-floor", floor, "-curl", "", "-aria2c", "", "-dir", dir, "-readme", readme,
		"-parts", "hub,s3,memory", "-size", "10MiB", "-memory-size", "12MiB", "-rounds", "2",
	}
	var out bytes.Buffer
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		"| floor | no | 0.", "| verified floor | sha256 | 0.", "| the same, fsync | sha256 |", "| the same, tuned | sha256 |", "| stoker pull | sha256 |",
		"| 1.00 (1.00-1.00) |", "huggingface_hub, wall / stoker pull | at least 2.5 | ? | not measured |", "MISSING: curl is not here",
		"Not here, so not compared: curl, aria2c,", "SKIPPED: s3: there is no S3 server", "12 MiB in ", "README.md stays as it is",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output does not have %q", want)
		}
	}
	for _, bad := range []string{"failed", "FAILED", "%!"} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("the output has %q", bad)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
	if left, err := filepath.Glob(filepath.Join(dir, workPrefix+"*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if now, err := os.ReadFile(readme); err != nil || !bytes.Equal(now, page) {
		t.Errorf("a small run changed the README, %v", err)
	}
}

// An interrupt in the middle leaves nothing.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	// A floor that never ends, and says that it runs.
	floor, running := filepath.Join(dir, "floor"), filepath.Join(dir, "running")
	if err := os.WriteFile(floor, []byte("#!/bin/sh\necho > "+running+"\nwhile :; do sleep 1; done\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"-stoker", floor, "-floor", floor, "-dir", dir, "-parts", "hub", "-size", "10MiB", "-curl", "", "-aria2c", ""}, &bytes.Buffer{})
	}()
	limit := time.After(time.Minute)
	for tick := time.Tick(5 * time.Millisecond); ; {
		if _, err := os.Stat(running); err == nil {
			break
		}
		select {
		case err := <-done:
			t.Fatalf("it ended: %v", err)
		case <-limit:
			t.Fatal("it did not start")
		case <-tick:
		}
	}
	cancel()
	if err := <-done; err == nil || ctx.Err() == nil {
		t.Errorf("ended with %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, workPrefix+"*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A contender whose files are not right has failed.
func TestWrongBytes(t *testing.T) {
	dir := t.TempDir()
	files, err := writeModel(t.Context(), filepath.Join(dir, "model"), 1, 10<<20)
	if err != nil {
		t.Fatal(err)
	}
	at := func(path string) string { return plainly(filepath.Join(dir, "model"), path) }
	if err := check(t.Context(), files, at, true); err != nil {
		t.Error(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.path, "2-of-00004.safetensors") {
			continue
		}
		landed, err := os.OpenFile(at(f.path), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := landed.WriteAt([]byte("?"), f.size/2); err != nil {
			t.Fatal(err)
		}
		if err := check(t.Context(), files, at, true); err == nil || !strings.Contains(err.Error(), "sha256") {
			t.Errorf("a wrong byte: %v", err)
		}
		if err := check(t.Context(), files, at, false); err != nil {
			t.Errorf("sizes: %v", err)
		}
		if _, err := landed.WriteAt([]byte("?"), f.size); err != nil {
			t.Fatal(err)
		}
		if err := landed.Close(); err != nil {
			t.Fatal(err)
		}
		if err := check(t.Context(), files, at, false); err == nil {
			t.Error("a byte too many went unnoticed")
		}
	}
}

// A full run replaces what is between a part's markers, and nothing else.
func TestPublish(t *testing.T) {
	readme := filepath.Join(t.TempDir(), "README.md")
	page := "head\n<!-- bench:hub -->\nold\n<!-- bench:hub end -->\n<!-- bench:s3 -->\nkept\n<!-- bench:s3 end -->\n"
	if err := os.WriteFile(readme, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &bench{options: options{readme: readme, size: fullSize, rounds: fullRounds}, out: &bytes.Buffer{}}
	if err := b.publish("hub", "new\n"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(readme)
	if want := strings.Replace(page, "old", "new", 1); err != nil || string(got) != want {
		t.Errorf("the page is %q, %v; want %q", got, err, want)
	}
	if err := b.publish("link", "new\n"); err == nil {
		t.Error("markers that are not there went unnoticed")
	}
}

// Ratios are made within rounds, and not of rounds in which one failed.
func TestRatios(t *testing.T) {
	of := func(seconds ...int) *result {
		r := &result{}
		for _, s := range seconds {
			if s == 0 {
				r.runs = append(r.runs, nil)
				continue
			}
			r.runs = append(r.runs, &cost{Usage: measure.Usage{Wall: time.Duration(s) * time.Second}})
		}
		return r
	}
	got := of(2, 40, 0, 9).ratios(of(1, 10, 5, 3), wall)
	if want := (measure.Spread{Low: 2.5, Median: 3, High: 3.5, N: 3}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := of(1).ratios(nil, wall); got.N != 0 {
		t.Errorf("ratios to nobody: %v", got)
	}
}
