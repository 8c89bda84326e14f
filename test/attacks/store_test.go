package attacks_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// modelDir is a directory with a small model.
func modelDir(t *testing.T) string {
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
func TestStore(t *testing.T) {
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
			attack := "store: " + kind + " at " + place
			t.Run(kind+" at "+place, func(t *testing.T) {
				t.Parallel()
				w, src := newWorld(t), modelDir(t)
				pull := func(attack string) {
					w.pull(t, attack, nil, "file://"+src, "--name", "m").expect(t, exitOK, "")
				}
				pull("")
				path := filepath.Join(w.store, w.place(t, place))
				if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o755), plant(path)); err != nil {
					t.Fatal(err)
				}
				try := func(codes []int, args ...string) {
					t.Helper()
					if o := w.attacked(t, attack, nil, args...); !slices.Contains(codes, o.code) {
						t.Errorf("%v exits with %d, want one of %v: %s", args, o.code, codes, o.output)
					}
				}
				try([]int{exitOK, exitFailed}, "wait", "m", "--timeout", "1s")
				try([]int{exitOK}, "ls")
				try([]int{exitOK, exitUsage, exitCorrupt}, "verify", "m")
				pull(attack)
				try([]int{exitOK}, "verify", "m")
				try([]int{exitOK}, "wait", "m", "--timeout", "1s")
				try([]int{exitOK}, "gc")
				try([]int{exitOK}, "rm", "m")
				try([]int{exitOK}, "gc", "--older-than", "0s")
			})
		}
	}
}

// place names a place by the store's own revision and blob.
func (w world) place(t *testing.T, place string) string {
	t.Helper()
	target, err := os.Readlink(filepath.Join(w.store, "models/m/current"))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := os.Readlink(filepath.Join(w.store, "models/m", target, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("REVISION", target, "BLOB", filepath.Base(blob)).Replace(place)
}

// Whatever is in the place of a pinned path, it becomes a link to the revision, or is
// named and left as it is; nothing is written through it.
func TestPin(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(pin, outside string) error
		code  int
	}{
		"link to nowhere":       {func(pin, _ string) error { return os.Symlink("nowhere", filepath.Join(pin, "model")) }, exitOK},
		"link to a file":        {func(pin, outside string) error { return os.Symlink(outside, filepath.Join(pin, "model")) }, exitOK},
		"link to itself":        {func(pin, _ string) error { return os.Symlink("model", filepath.Join(pin, "model")) }, exitOK},
		"link to a device":      {func(pin, _ string) error { return os.Symlink("/dev/zero", filepath.Join(pin, "model")) }, exitOK},
		"pipe":                  {func(pin, _ string) error { return syscall.Mkfifo(filepath.Join(pin, "model"), 0o666) }, exitUsage},
		"folder":                {func(pin, _ string) error { return os.MkdirAll(filepath.Join(pin, "model", "full"), 0o755) }, exitUsage},
		"second name of a file": {func(pin, outside string) error { return os.Link(outside, filepath.Join(pin, "model")) }, exitUsage},
		"loop for the folder":   {func(pin, _ string) error { return errors.Join(os.Remove(pin), os.Symlink(filepath.Base(pin), pin)) }, exitUsage},
		"pipe for the folder":   {func(pin, _ string) error { return errors.Join(os.Remove(pin), syscall.Mkfifo(pin, 0o666)) }, exitUsage},
		"device for the folder": {func(pin, _ string) error { return errors.Join(os.Remove(pin), os.Symlink("/dev/zero", pin)) }, exitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.pull(t, "", nil, "file://"+modelDir(t), "--name", "m").expect(t, exitOK, "")
			pin, outside := filepath.Join(t.TempDir(), "pin"), filepath.Join(t.TempDir(), "outside")
			if err := errors.Join(os.Mkdir(pin, 0o755), os.WriteFile(outside, []byte("outside"), 0o600), c.plant(pin, outside)); err != nil {
				t.Fatal(err)
			}
			w.attacked(t, "pin: "+name, nil, "wait", "m", "--timeout", "5s", "--pin", pin).expect(t, c.code, "")
			if target, err := filepath.EvalSymlinks(filepath.Join(pin, "model")); (err == nil && strings.HasPrefix(target, w.store)) != (c.code == exitOK) {
				t.Errorf("it leads to %s, %v", target, err)
			}
			if text, err := os.ReadFile(outside); err != nil || string(text) != "outside" {
				t.Errorf("what is outside has changed: %q, %v", text, err)
			}
		})
	}
}
