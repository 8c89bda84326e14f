package store_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cached says of each page of a file whether the page cache holds it.
func cached(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	pages := make([]byte, (len(mapped)+os.Getpagesize()-1)/os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&pages[0])))
	must(t, unix.Munmap(mapped))
	if errno != 0 {
		t.Fatal(errno)
	}
	for i := range pages {
		pages[i] &= 1
	}
	return pages
}

// cool takes a file out of the page cache, then warm reads a part of it in.
func cool(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, f.Sync())
	must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

func warm(t *testing.T, path string, from, to int64) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM))
	_, err = f.ReadAt(make([]byte, to-from), from)
	must(t, err)
}

// journaled mounts a file system whose data goes through the journal, so that
// nothing is read directly.
func journaled(t *testing.T) string {
	t.Helper()
	p := newPowered(t)
	must(t, unmount(p.dir))
	p.run("tune2fs", "-o", "journal_data", p.image)
	p.run("mount", "-o", "loop", p.image, p.dir)
	return p.dir
}

// overlaid lays another file system over a directory.
func overlaid(t *testing.T, layers string) string {
	t.Helper()
	for _, dir := range []string{"lower", "upper", "work"} {
		must(t, os.Mkdir(filepath.Join(layers, dir), 0o755))
	}
	return mount(t, "none", "overlay", "lowerdir="+layers+"/lower,upperdir="+layers+"/upper,workdir="+layers+"/work")
}

// A scrub of everything leaves in memory what pods have there, and brings in
// nothing, whether or not the file system reads directly.
func TestScrubLeavesThePageCache(t *testing.T) {
	image := func(mkfs ...string) func(*testing.T) string {
		return func(t *testing.T) string { t.Helper(); return mountImage(t, mkfs...) }
	}
	for name, volume := range map[string]func(*testing.T) string{
		"the machine's own":        func(t *testing.T) string { t.Helper(); return t.TempDir() },
		"ext4":                     image("mkfs.ext4", "-q", "-b", "4096"),
		"ext4 with a data journal": journaled,
		"ext2":                     image("mkfs.ext2", "-q", "-b", "4096"),
		"overlay": func(t *testing.T) string {
			t.Helper()
			return overlaid(t, mountImage(t, "mkfs.ext4", "-q", "-b", "4096"))
		},
		"overlay of a data journal": func(t *testing.T) string { t.Helper(); return overlaid(t, journaled(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(volume(t), "store"))
			files := map[string]string{}
			for _, c := range []string{"cold", "warm", "half"} {
				files[c] = strings.Repeat(c, 1<<19) + "the end"
			}
			publish(t, s, "tiny", repo, commitA, files)
			paths := map[string]string{}
			for c, content := range files {
				paths[c] = s.BlobPath(sumOf(content))
				cool(t, paths[c])
			}
			warm(t, paths["warm"], 0, int64(len(files["warm"])))
			warm(t, paths["half"], 1<<20-8<<10, 1<<20+100<<10)
			before := map[string][]byte{}
			for c, path := range paths {
				before[c] = cached(t, path)
			}
			if bytes.Contains(before["warm"], []byte{0}) || bytes.Contains(before["cold"], []byte{1}) || bytes.Count(before["half"], []byte{1}) > 40 || !bytes.Contains(before["half"], []byte{1}) {
				t.Fatalf("the page cache holds %d of %d, %d and %d pages", bytes.Count(before["warm"], []byte{1}), len(before["warm"]), bytes.Count(before["cold"], []byte{1}), bytes.Count(before["half"], []byte{1}))
			}
			for _, content := range files {
				if _, err := scrub(t, s, sumOf(content)); err != nil {
					t.Error(err)
				}
			}
			for c, path := range paths {
				if after := cached(t, path); !bytes.Equal(after, before[c]) {
					t.Errorf("%s: the page cache held %d pages, now %d", c, bytes.Count(before[c], []byte{1}), bytes.Count(after, []byte{1}))
				}
			}
		})
	}
}
