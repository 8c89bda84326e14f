package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/store"
)

// vanished looks whether the store says that it is gone, to the pull as well.
func vanished(t *testing.T, s *store.Store) {
	t.Helper()
	if err := s.Ensure(t.Context()); !errors.Is(err, store.ErrVanished) || !strings.Contains(err.Error(), s.Dir()) {
		t.Errorf("Ensure: %v", err)
	}
	if g, err := s.Stage(t.Context(), "tiny", nil); !errors.Is(err, store.ErrVanished) {
		t.Errorf("Stage: %v", err)
		if err == nil {
			closeStaging(t, g)
		}
	}
}

// Under an unmounted volume is a directory that belongs to somebody else.
func TestUnmounted(t *testing.T) {
	p := newPowered(t)
	s := open(t, p.dir)
	m := publish(t, s, "tiny", repo, commitA, tiny)
	must(t, s.Ensure(t.Context()))
	must(t, unmount(p.dir))
	vanished(t, s)
	entries, err := os.ReadDir(p.dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("below the mount: %v, %v", entries, err)
	}

	// Neither is the volume of another store this one.
	must(t, unix.Mount("none", p.dir, "tmpfs", 0, ""))
	other := open(t, p.dir)
	before := snapshot(t, p.dir)
	vanished(t, s)
	if after := snapshot(t, p.dir); after != before {
		t.Errorf("the other store was\n%s\nand is\n%s", before, after)
	}
	must(t, other.Ensure(t.Context()))
	must(t, unmount(p.dir))

	// Mounted again it is the store, also where that gives it another device.
	inUse := newPowered(t)
	p.run("mount", "-o", "loop", p.image, p.dir)
	must(t, s.Ensure(t.Context()))
	must(t, s.Check(t.Context(), m))
	a, err := os.Stat(p.dir)
	must(t, err)
	b, err := os.Stat(inUse.dir)
	must(t, err)
	if os.SameFile(a, b) {
		t.Error("two file systems are one")
	}
	publish(t, s, "tiny", repo, commitB, tiny)
}

// There are ways to lose everything without losing the volume.
func TestEmptied(t *testing.T) {
	for name, empty := range map[string]func(t *testing.T, dir string){
		"emptied": func(t *testing.T, dir string) {
			t.Helper()
			entries, err := os.ReadDir(dir)
			must(t, err)
			for _, e := range entries {
				must(t, os.RemoveAll(filepath.Join(dir, e.Name())))
			}
		},
		"in part": func(t *testing.T, dir string) {
			t.Helper()
			must(t, os.RemoveAll(filepath.Join(dir, "blobs")))
			must(t, os.RemoveAll(filepath.Join(dir, "manifests")))
			must(t, os.RemoveAll(filepath.Join(dir, "agent/locks")))
		},
		"made anew": func(t *testing.T, dir string) {
			t.Helper()
			// Kept for as long, so that the new one cannot get the same inode.
			must(t, os.Rename(dir, dir+"-old"))
			must(t, os.Mkdir(dir, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			m := publish(t, s, "tiny", repo, commitA, tiny)
			empty(t, s.Dir())
			if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Check: %v", err)
			}
			must(t, s.Ensure(t.Context()))
			if got := published(t, s); got != "" {
				t.Errorf("published %q", got)
			}
			m = publish(t, s, "tiny", repo, commitA, tiny)
			must(t, errors.Join(s.Ensure(t.Context()), s.Check(t.Context(), m)))
			checkFiles(t, s.Path("tiny", commitA), tiny)
			gc(t, s, 0)
		})
	}
}

// A store's directory is never made again by a running process: it may be where
// the volume is to be mounted.
func TestDeleted(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, tiny)
	must(t, os.RemoveAll(s.Dir()))
	vanished(t, s)
	if exists(t, s.Dir()) {
		t.Error("the directory was made again")
	}
	writeFile(t, s.Dir(), "a file")
	vanished(t, s)
	must(t, os.Remove(s.Dir()))
	must(t, os.Mkdir(s.Dir(), 0o755))
	must(t, s.Ensure(t.Context()))
	publish(t, s, "tiny", repo, commitA, tiny)
}

// In a container a directory that was deleted outside is still there, and takes
// nothing.
func TestDeletedOutside(t *testing.T) {
	outside := filepath.Join(mount(t, "none", "tmpfs", ""), "store")
	inside := filepath.Join(t.TempDir(), "inside")
	must(t, errors.Join(os.Mkdir(outside, 0o755), os.Mkdir(inside, 0o755)))
	must(t, unix.Mount(outside, inside, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unmount(inside)) })
	s := open(t, inside)
	publish(t, s, "tiny", repo, commitA, tiny)
	must(t, os.RemoveAll(outside))
	if _, err := os.Stat(inside); err != nil {
		t.Fatal(err)
	}
	vanished(t, s)
}

// What cannot be written any more can still be read, and says so.
func TestRemountedReadOnly(t *testing.T) {
	p := newPowered(t)
	s := open(t, filepath.Join(p.dir, "store"))
	m := publish(t, s, "tiny", repo, commitA, tiny)
	readOnly := func(want bool) {
		t.Helper()
		must(t, errors.Join(s.Ensure(t.Context()), s.Check(t.Context(), m)))
		if u, err := s.Usage(); err != nil || u.ReadOnly != want || u.StoreBytes == 0 {
			t.Errorf("usage %+v, %v", u, err)
		}
	}
	readOnly(false)
	must(t, unix.Mount("", p.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	readOnly(true)
	if _, err := s.Stage(t.Context(), "tiny", nil); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Stage: %v", err)
	}
	must(t, unix.Mount("", p.dir, "", unix.MS_REMOUNT, ""))
	readOnly(false)
}

// An ext4 that finds itself damaged takes no more writes, and statfs does not
// tell.
func TestReadOnlyAfterAnError(t *testing.T) {
	p := newPowered(t)
	p.run("mount", "-o", "remount,errors=remount-ro", p.dir)
	s := open(t, filepath.Join(p.dir, "store"))
	m := publish(t, s, "tiny", repo, commitA, tiny)
	var st unix.Stat_t
	must(t, unix.Stat(p.dir, &st))
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	must(t, err)
	err = os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "trigger_fs_error"), []byte("for a test"), 0o200)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		t.Skipf("SKIPPED, no error can be made here (%v)", err)
	}
	must(t, err)
	must(t, errors.Join(s.Ensure(t.Context()), s.Check(t.Context(), m)))
	if u, err := s.Usage(); err != nil || !u.ReadOnly {
		t.Errorf("usage %+v, %v", u, err)
	}
}
