package volumes

import (
	"bytes"
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

	"github.com/hanwen/go-fuse/v2/fuse"
	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/test/weakfs"
)

// binary is the stoker that TestMain built.
var binary string

func TestMain(m *testing.M) {
	if code, ran := weakfs.Main(); ran {
		os.Exit(code)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stoker-volumes")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "stoker")
	build := exec.Command("go", "build", "-o", binary, "./cmd/stoker")
	build.Dir, build.Stderr = "../..", os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build stoker:", err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// stoker runs the binary; both its outputs go to out.
func stoker(t *testing.T, out *bytes.Buffer, args ...string) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Stdout, cmd.Stderr = out, out
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return 0
}

// source makes a model in a directory, named tiny, with more files.
func source(t *testing.T, more map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tiny")
	files := map[string]string{"config.json": "{}", "model.safetensors": "weights", "sub/tokenizer.json": "tokens"}
	for name, content := range more {
		files[name] = content
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return "file://" + dir
}

// names lists what is below dir.
func names(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			all = append(all, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestUnfitVolumes(t *testing.T) {
	t.Parallel()
	const flock, symlinks, renames = "two pulls would write over each other", "what a model's folder consists of", "changes at once or not at all"
	for name, c := range map[string]struct {
		faults faults
		says   []string
	}{
		"flock is not known":          {faults{flock: fuse.ENOSYS}, []string{"has no flock (function not implemented)", flock}},
		"flock is not supported":      {faults{flock: fuse.Status(95)}, []string{"has no flock (operation not supported)", flock}},
		"no locks are left":           {faults{flock: fuse.Status(37)}, []string{"has no flock (no locks available)", flock}},
		"flock excludes nobody":       {faults{flockLies: true}, []string{"gives one flock to two at once", flock}},
		"symlinks as FAT has them":    {faults{symlink: fuse.EPERM}, []string{"has no symlinks (operation not permitted)", symlinks}},
		"symlinks are not known":      {faults{symlink: fuse.ENOSYS}, []string{"has no symlinks (function not implemented)", symlinks}},
		"renames replace nothing":     {faults{rename: fuse.Status(17)}, []string{"does not rename one file over another (file exists)", renames}},
		"renames are not known":       {faults{rename: fuse.ENOSYS}, []string{"does not rename one file over another (function not implemented)", renames}},
		"modes are what they are":     {faults{modes: true}, []string{"leaves a file's mode at -rw-------, with which not every pod may read it"}},
		"everything that it can lack": {faults{flock: fuse.ENOSYS, symlink: fuse.EPERM, rename: fuse.ENOSYS, fallocate: fuse.ENOSYS}, []string{flock + ", and has", symlinks + ", and does", renames}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			below := t.TempDir()
			at := mount(t, below, c.faults)
			model := source(t, nil)
			refused := func(dir, doing string) {
				t.Helper()
				var out bytes.Buffer
				if code := stoker(t, &out, "pull", model, "--store", dir, "--progress", "none"); code != 2 {
					t.Errorf("pull ends with %d: %s", code, out.String())
				}
				sentence, rest, _ := strings.Cut(out.String(), "\n")
				if rest != "Run 'stoker pull --help' for usage.\n" {
					t.Errorf("beside the sentence it says %q", rest)
				}
				for _, says := range append(c.says, "stoker: "+doing+" store "+dir+": fuse.weak weak, mounted at "+at+", cannot hold a store: it ", "; choose a directory on a local file system like ext4 or xfs") {
					if !strings.Contains(sentence, says) {
						t.Errorf("it says %q, not %q", sentence, says)
					}
				}
			}
			// Where there is no store, none is begun.
			refused(filepath.Join(at, "new"), "open")
			if left := names(t, below); !slices.Equal(left, []string{"new"}) {
				t.Errorf("left %v", left)
			}
			// A store that came there otherwise is not touched, and can be read.
			var out bytes.Buffer
			if code := stoker(t, &out, "pull", model, "--name", "old", "--store", filepath.Join(below, "store")); code != 0 {
				t.Fatalf("pull ends with %d: %s", code, out.String())
			}
			before := names(t, below)
			refused(filepath.Join(at, "store"), "use")
			if after := names(t, below); !slices.Equal(before, after) {
				t.Errorf("there was %v, now %v", before, after)
			}
			for _, args := range [][]string{{"ls"}, {"wait", "old", "--timeout", "10s"}} {
				out.Reset()
				if code := stoker(t, &out, append(args, "--store", filepath.Join(at, "store"))...); code != 0 {
					t.Errorf("%v ends with %d: %s", args, code, out.String())
				}
			}
		})
	}
}

// Who only needs a lock is told the same.
func TestRemoveWithoutFlock(t *testing.T) {
	t.Parallel()
	below := t.TempDir()
	at := mount(t, below, faults{flock: fuse.ENOSYS})
	var out bytes.Buffer
	if code := stoker(t, &out, "pull", source(t, nil), "--store", below); code != 0 {
		t.Fatalf("pull ends with %d: %s", code, out.String())
	}
	out.Reset()
	code := stoker(t, &out, "rm", "tiny", "--store", at)
	if want := "fuse.weak weak, mounted at " + at + ", cannot hold a store: it has no flock (function not implemented)"; code != 2 || !strings.Contains(out.String(), want) {
		t.Errorf("rm ends with %d: %s", code, out.String())
	}
}

// Without fallocate a store works; that a full disk shows late is said once.
func TestVolumeWithoutFallocate(t *testing.T) {
	t.Parallel()
	for _, answer := range []fuse.Status{fuse.ENOSYS, fuse.Status(95)} {
		at := mount(t, t.TempDir(), faults{fallocate: answer})
		for range 2 { // a new store, and one that is there
			var out bytes.Buffer
			if code := stoker(t, &out, "pull", source(t, nil), "--store", at, "--progress", "none"); code != 0 {
				t.Errorf("pull ends with %d: %s", code, out.String())
			}
			if n := strings.Count(out.String(), "reserves no room"); n != 1 || !strings.Contains(out.String(), "type=fuse.weak mount="+at) {
				t.Errorf("pull says it %d times: %s", n, out.String())
			}
		}
		content, err := os.ReadFile(filepath.Join(at, "models/tiny/current/sub/tokenizer.json"))
		if err != nil || string(content) != "tokens" {
			t.Errorf("the store has %q, %v", content, err)
		}
	}
}

// Two names that are one on this file system would show one file's bytes under
// the other's name.
func TestVolumeThatFoldsCase(t *testing.T) {
	t.Parallel()
	at := mount(t, t.TempDir(), faults{folds: true})
	var out bytes.Buffer
	args := []string{"--store", at, "--progress", "none"}
	code := stoker(t, &out, append(args, "pull", source(t, map[string]string{"readme.json": "a", "README.json": "b"}))...)
	want := "fuse.weak weak, mounted at " + at + `, takes "README.json" and "readme.json" for one name; choose a directory on a file system that tells them apart, or leave one out`
	if code != 2 || !strings.Contains(out.String(), want) {
		t.Errorf("pull ends with %d: %s", code, out.String())
	}
	if blobs := names(t, filepath.Join(at, "blobs")); !slices.Equal(blobs, []string{"sha256"}) {
		t.Errorf("fetched %v", blobs)
	}
	// What only the file system knows to be one name shows when both are there.
	out.Reset()
	code = stoker(t, &out, append(args, "pull", source(t, map[string]string{"caf\u00e9.json": "a", "cafe\u0301.json": "b"}))...)
	if code != 2 || !strings.Contains(out.String(), "for one name") {
		t.Errorf("pull ends with %d: %s", code, out.String())
	}
	if published := names(t, filepath.Join(at, "manifests")); slices.Contains(published, "tiny") {
		t.Errorf("published %v", published)
	}
	out.Reset()
	if code := stoker(t, &out, append(args, "pull", source(t, map[string]string{"readme.json": "a"}))...); code != 0 {
		t.Errorf("pull of what differs otherwise ends with %d: %s", code, out.String())
	}
	out.Reset()
	if code := stoker(t, &out, "verify", "--store", at); code != 0 {
		t.Errorf("verify ends with %d: %s", code, out.String())
	}
}

// A real file system that reserves nothing, and whose files end at 16 GiB: a
// larger one is refused before a byte of it is read, and not for want of room.
func TestFileTooLargeForVolume(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what a file system with small files does is not tested here")
	}
	if _, err := exec.LookPath("mkfs.ext2"); err != nil {
		t.Skip("SKIPPED, no mkfs.ext2: what a file system with small files does is not tested here")
	}
	image, at := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "mounted")
	model := source(t, map[string]string{"model-2.safetensors": ""})
	for _, err := range []error{
		os.WriteFile(image, nil, 0o600), os.Truncate(image, 64<<20), os.Mkdir(at, 0o755),
		os.Truncate(strings.TrimPrefix(model, "file://")+"/model-2.safetensors", 17<<30),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"mkfs.ext2", "-q", "-b", "1024", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	var out bytes.Buffer
	code := stoker(t, &out, "pull", model, "--store", filepath.Join(at, "store"))
	const begin = "model-2.safetensors has 18253611008 bytes, and ext2 /dev/loop"
	end := ", mounted at " + at + ", holds files of at most 17247252480; choose a store on a file system that takes larger files\n"
	if code != 5 || !strings.Contains(out.String(), begin) || !strings.HasSuffix(out.String(), end) {
		t.Errorf("pull ends with %d: %s", code, out.String())
	}
	if n := strings.Count(out.String(), "reserves no room"); n != 1 {
		t.Errorf("the warning comes %d times: %s", n, out.String())
	}
	out.Reset()
	if code := stoker(t, &out, "pull", model, "--exclude", "*-2.safetensors", "--store", filepath.Join(at, "store")); code != 0 {
		t.Errorf("pull of the rest ends with %d: %s", code, out.String())
	}
}
