package fetcher_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// mountSmall puts a file system of a few bytes at the store's place, and
// returns a function that changes its options.
func (e *env) mountSmall(options string) (remount func(options string)) {
	e.t.Helper()
	if os.Geteuid() != 0 {
		e.t.Skip("SKIPPED, not root: what a full disk does is not tested here")
	}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		e.t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", e.dir, "tmpfs", 0, options); err != nil {
		e.t.Skipf("SKIPPED, no file system can be mounted (%v): what a full disk does is not tested here", err)
	}
	e.t.Cleanup(func() {
		if err := unix.Unmount(e.dir, unix.MNT_DETACH); err != nil {
			e.t.Error(err)
		}
	})
	return func(options string) {
		if err := unix.Mount("tmpfs", e.dir, "tmpfs", unix.MS_REMOUNT, options); err != nil {
			e.t.Fatal(err)
		}
	}
}

// tooBig checks that a pull finds no room, and leaves nothing that could be
// taken for a model.
func (e *env) tooBig(change func(*fetcher.Options)) {
	e.t.Helper()
	_, err := e.fetcher(change).Pull(e.t.Context(), request("tiny", ""))
	if !errors.Is(err, fetcher.ErrNoSpace) {
		e.t.Errorf("pull ends with %v", err)
	}
	if got := checkStore(e.t, e.dir); len(got) > 0 {
		e.t.Errorf("published %v", got)
	}
}

func TestPullWithoutRoom(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	remount := e.mountSmall("size=4m,mode=0755")
	tree := bigTree(1, 4<<20)
	commit := e.push(repoID, tree)

	// Before the first byte, by what the file system says.
	e.tooBig(nil)
	if sent := e.hub.BytesSent(fetchertest.Match{Kind: fetchertest.KindCDN}); sent > 0 {
		t.Errorf("the CDN sent %d bytes", sent)
	}
	// And when that was wrong: by the reservation of each file.
	admit := func(o *fetcher.Options) { o.Admit = alwaysAdmit }
	e.tooBig(admit)
	for _, r := range e.hub.Requests(fetchertest.Match{Kind: fetchertest.KindCDN, File: shard}) {
		t.Errorf("asked for %s, which has no room", r.File)
	}

	remount("size=32m")
	if res := e.mustPull(request("tiny", "")); res.DownloadedBytes > treeBytes(tree) {
		t.Errorf("downloaded %d bytes of %d", res.DownloadedBytes, treeBytes(tree))
	}
	if got := checkStore(t, e.dir); !got["tiny@"+commit] {
		t.Errorf("published %v", got)
	}
}

// No room for names is no room either: journals, links and manifests fail then,
// at any step.
func TestPullWithoutInodes(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	remount := e.mountSmall("size=32m,nr_inodes=20,mode=0755")
	tree := bigTree(1, 100_000)
	commit := e.push(repoID, tree)
	for inodes := 20; ; inodes++ {
		if inodes > 200 {
			t.Fatal("there is never room")
		}
		remount("size=32m,nr_inodes=" + itoa(inodes))
		res, err := e.fetcher(nil).Pull(t.Context(), request("tiny", ""))
		published := checkStore(t, e.dir)
		if err == nil {
			checkModel(t, res.Path, tree)
			if !published["tiny@"+commit] {
				t.Errorf("published %v", published)
			}
			break
		}
		if !errors.Is(err, fetcher.ErrNoSpace) {
			t.Fatalf("with %d inodes: %v", inodes, err)
		}
		if len(published) > 0 {
			t.Fatalf("with %d inodes: published %v", inodes, published)
		}
	}
	if left := mustGlob(t, filepath.Join(e.dir, "partial/*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A disk that fills up in the middle of a file, where nothing could be reserved
// before, keeps what came.
func TestPullWhenTheDiskFills(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{BytesPerSecond: 64 << 20})
	remount := e.mountSmall("size=16m,mode=0755")
	tree := bigTree(1, 4<<20)
	e.push(repoID, tree)
	ballast := filepath.Join(e.dir, "ballast")
	req := request("tiny", "")
	filled := false
	req.Progress = func(p fetcher.Progress) {
		if p.Phase == fetcher.PhasePublishing && !filled {
			filled = true
			if err := fill(ballast); err != nil {
				t.Error(err)
			}
		}
	}
	_, err := e.fetcher(nil).Pull(t.Context(), req)
	if !filled || !errors.Is(err, fetcher.ErrNoSpace) {
		t.Fatalf("filled: %v, pull ends with %v", filled, err)
	}
	if got := checkStore(t, e.dir); len(got) > 0 {
		t.Errorf("published %v", got)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	remount("size=16m")
	if res := e.mustPull(request("tiny", "")); res.DownloadedBytes != 0 {
		t.Errorf("downloaded %d bytes again", res.DownloadedBytes)
	}
	if got := checkStore(t, e.dir); len(got) != 1 {
		t.Errorf("published %v", got)
	}
}
