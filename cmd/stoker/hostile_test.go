package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hostileTime is what a command that somebody attacks may take at most.
const hostileTime = 20 * time.Second

// attacked runs the binary beside an attack, with a bound in time and memory, and logs
// a row: the attack, the command, its exit code, its seconds and its memory.
func attacked(t *testing.T, attack string, env []string, args ...string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hostileTime)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "stoker-measured", args...)
	cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began).Seconds()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", args[0], err)
	}
	code = cmd.ProcessState.ExitCode()
	if ctx.Err() != nil {
		t.Fatalf("%s: %s hangs", attack, args[0])
	}
	output, memory := peakOf(t, out.String())
	t.Logf("%-60s %-8s exit %d, %.1f s, %d MiB", attack, args[0], code, took, memory>>20)
	if memory > memoryBound() {
		t.Errorf("%s takes %d MiB", args[0], memory>>20)
	}
	if strings.Contains(output, "goroutine ") {
		t.Errorf("%s crashes:\n%s", args[0], output)
	}
	return code, output
}

// source is a directory with a small model.
func hostileSource(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"config.json": "{}", "model.safetensors": strings.Repeat("w", 600_000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Whatever is in the place of one of a store's files, every command ends soon, takes
// little memory, and the next pull mends the store.
func TestHostileStore(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(path string) error{
		"pipe":   func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"loop":   func(path string) error { return os.Symlink(filepath.Base(path), path) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"sparse": func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 3<<40)) },
	}
	for _, place := range []string{
		"manifests/m/REVISION.json", "manifests/other/REVISION.json", "agent/store-id", "agent/pulls/m", "agent/pulls/other", "agent/locks/model-m.lock",
		"agent/locks/layout.lock", "agent/verified/BLOB.json", "agent/progress/m.json", "agent/withdrawn/m/REVISION.json",
		"status/m.json", "status/agent.json", "partial/BLOB", "partial/BLOB.json", "blobs/sha256/BLOB", "models/m/current",
		"hub/models--a--b/refs/main",
	} {
		for kind, plant := range kinds {
			t.Run(kind+" at "+place, func(t *testing.T) {
				t.Parallel()
				attack := kind + " at " + place
				src, dir := hostileSource(t), filepath.Join(t.TempDir(), "store")
				pull := []string{"pull", "file://" + src, "--name", "m", "--store", dir, "--progress", "none"}
				code, out := attacked(t, "none", nil, pull...)
				if code != exitOK {
					t.Fatalf("pull exits with %d: %s", code, out)
				}
				path := filepath.Join(dir, hostilePlace(t, dir, place))
				if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o755), plant(path)); err != nil {
					t.Fatal(err)
				}
				for _, c := range []struct {
					codes []int
					args  []string
				}{
					{[]int{exitOK, exitFailed}, []string{"wait", "m", "--timeout", "1s"}},
					{[]int{exitOK}, []string{"ls"}},
					{[]int{exitOK, exitUsage, exitCorrupt}, []string{"verify", "m"}},
					{[]int{exitOK}, pull},
					{[]int{exitOK}, []string{"verify", "m"}},
					{[]int{exitOK}, []string{"wait", "m", "--timeout", "1s"}},
					{[]int{exitOK}, []string{"gc"}},
					{[]int{exitOK}, []string{"rm", "m"}},
					{[]int{exitOK}, []string{"gc", "--older-than", "0s"}},
				} {
					if c.args[0] != "pull" {
						c.args = append(c.args, "--store", dir)
					}
					if code, out := attacked(t, attack, nil, c.args...); !slices.Contains(c.codes, code) {
						t.Errorf("%v exits with %d, want one of %v: %s", c.args, code, c.codes, out)
					}
				}
			})
		}
	}
}

// hostilePlace names a place by the store's own revision and blob.
func hostilePlace(t *testing.T, dir, place string) string {
	t.Helper()
	target, err := os.Readlink(filepath.Join(dir, "models/m/current"))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := os.Readlink(filepath.Join(dir, "models/m", target, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("REVISION", target, "BLOB", filepath.Base(blob)).Replace(place)
}

// What files of tokens, credentials and lists are instead is named.
func TestHostileSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	huge := filepath.Join(dir, "huge")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o666), os.WriteFile(huge, nil, 0o644), os.Truncate(huge, 3<<40)); err != nil {
		t.Fatal(err)
	}
	pull := func(source string) []string {
		return []string{"pull", source, "--store", filepath.Join(dir, "store"), "--progress", "none"}
	}
	for path, reason := range map[string]string{"/dev/zero": "is a device", pipe: "is a pipe", huge: "at most"} {
		for _, c := range []struct {
			what string
			env  []string
			args []string
		}{
			{"HF_TOKEN_PATH", []string{"HF_TOKEN=", "HF_ENDPOINT=http://127.0.0.1:1", "HF_TOKEN_PATH=" + path}, pull("hf://o/n")},
			{"AWS_CONFIG_FILE", []string{"AWS_CONFIG_FILE=" + path, "AWS_ENDPOINT_URL=http://127.0.0.1:1"}, pull("s3://b/n")},
			{"AWS_SHARED_CREDENTIALS_FILE", []string{"AWS_SHARED_CREDENTIALS_FILE=" + path, "AWS_ENDPOINT_URL=http://127.0.0.1:1"}, pull("s3://b/n")},
			{"GOOGLE_APPLICATION_CREDENTIALS", []string{"GOOGLE_APPLICATION_CREDENTIALS=" + path}, pull("gs://b/n")},
			{"populate --config", nil, []string{"populate", "--config", path, "--store", filepath.Join(dir, "store")}},
			{"agent --config", nil, []string{"agent", "--config", path, "--store", filepath.Join(dir, "store"), "--node-name", "n"}},
		} {
			t.Run(c.what+"="+filepath.Base(path), func(t *testing.T) {
				t.Parallel()
				code, out := attacked(t, c.what+"="+filepath.Base(path), c.env, c.args...)
				if code != exitUsage || !strings.Contains(out, path+" ") || !strings.Contains(out, reason) {
					t.Errorf("exits with %d: %s", code, out)
				}
			})
		}
	}
}

// A link in a directory brings nothing into the store that is outside of it.
func TestHostileDirectory(t *testing.T) {
	t.Parallel()
	const secret = "root:$6$abcdefgh"
	for name, c := range map[string]struct {
		prepare func(src, secret string) error
		code    int
		follow  bool
	}{
		"link to a token":          {prepare: func(src, secret string) error { return os.Symlink(secret, filepath.Join(src, "tokenizer.json")) }, code: exitRefused},
		"link to a token, allowed": {prepare: func(src, secret string) error { return os.Symlink(secret, filepath.Join(src, "tokenizer.json")) }, follow: true},
		"link to its folder":       {prepare: func(src, secret string) error { return os.Symlink(filepath.Dir(secret), filepath.Join(src, "sub")) }, code: exitRefused},
		"link to /dev/zero":        {prepare: func(src, _ string) error { return os.Symlink("/dev/zero", filepath.Join(src, "tokenizer.json")) }, code: exitRefused},
		"pipe":                     {prepare: func(src, _ string) error { return syscall.Mkfifo(filepath.Join(src, "tokenizer.json"), 0o666) }, code: exitRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dir := hostileSource(t), filepath.Join(t.TempDir(), "store")
			path := filepath.Join(t.TempDir(), "token")
			if err := errors.Join(os.WriteFile(path, []byte(secret), 0o600), c.prepare(src, path)); err != nil {
				t.Fatal(err)
			}
			args := []string{"pull", "file://" + src, "--name", "m", "--store", dir, "--progress", "none"}
			if c.follow {
				args = append(args, "--follow-links", filepath.Dir(path))
			}
			code, out := attacked(t, name, nil, args...)
			if code != c.code {
				t.Errorf("exits with %d, want %d: %s", code, c.code, out)
			}
			if got := holds(t, dir, secret); got != c.follow {
				t.Errorf("the store holds the secret: %v", got)
			}
		})
	}
	code, out := attacked(t, "flag for another source", nil, "pull", "hf://o/n", "--follow-links", "/srv", "--store", filepath.Join(t.TempDir(), "s"))
	if code != exitUsage || !strings.Contains(out, "--follow-links is for a file:// source") {
		t.Errorf("exits with %d: %s", code, out)
	}
}

// holds reports whether a file below dir has the text.
func holds(t *testing.T, dir, text string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		found = found || bytes.Contains(content, []byte(text))
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(fmt.Errorf("search the store: %w", err))
	}
	return found
}
