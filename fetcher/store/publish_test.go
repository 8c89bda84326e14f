package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

func TestPublish(t *testing.T) {
	s := newStore(t)
	if _, err := s.Lookup("tiny"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup before: %v", err)
	}
	m := publish(t, s, "tiny", repo+"@main", commitA, tiny)
	got, err := s.Lookup("tiny")
	must(t, err)
	if got.Revision != commitA || got.Source != m.Source || got.Bytes != m.Bytes || len(got.Files) != 4 || !got.PublishedAt.Equal(m.PublishedAt) {
		t.Errorf("Lookup: %+v", got)
	}
	must(t, s.Check(t.Context(), got))
	must(t, s.Present(t.Context(), got))
	checkFiles(t, s.Path("tiny", commitA), tiny)
	checkFiles(t, hubDir(s, "snapshots/"+commitA), tiny)
	if target, err := os.Readlink(filepath.Join(s.Dir(), "models/tiny/current")); err != nil || target != commitA {
		t.Errorf("current is %q, %v", target, err)
	}
	if names, err := s.Names(); err != nil || strings.Join(names, " ") != "tiny" {
		t.Errorf("names %q, %v", names, err)
	}

	// The store may be moved, or mounted elsewhere.
	moved := filepath.Join(filepath.Dir(s.Dir()), "moved")
	must(t, os.Rename(s.Dir(), moved))
	ro, err := store.OpenReadOnly(moved)
	must(t, err)
	must(t, ro.Check(t.Context(), got))
	checkFiles(t, filepath.Join(moved, "models/tiny/current")+"/", tiny)
	checkFiles(t, filepath.Join(moved, "hub/models--acme--tiny/snapshots", commitA), tiny)
}

func TestPublishRefuses(t *testing.T) {
	s := newStore(t)
	publish(t, s, "good", repo, commitA, tiny)
	for name, spoil := range map[string]func(*store.Manifest){
		"a blob that is not there":     func(m *store.Manifest) { m.Files[0].SHA256 = sumOf("nothing") },
		"another size":                 func(m *store.Manifest) { m.Files[0].Size++; m.Bytes++ },
		"a wrong sum":                  func(m *store.Manifest) { m.Bytes++ },
		"no files":                     func(m *store.Manifest) { m.Files, m.Bytes = nil, 0 },
		"a hostile path":               func(m *store.Manifest) { m.Files[0].Path = "../../../escaped" },
		"a path of unfinished files":   func(m *store.Manifest) { m.Files[0].Path = ".stoker-tmp-x" },
		"a path twice":                 func(m *store.Manifest) { m.Files[0].Path = m.Files[1].Path },
		"a file as a folder":           func(m *store.Manifest) { m.Files[0].Path = m.Files[1].Path + "/x" },
		"a sha256 that is a path":      func(m *store.Manifest) { m.Files[0].SHA256 = "../../../../../etc/passwd" },
		"a revision that is a path":    func(m *store.Manifest) { m.Revision = "../x" },
		"the revision current":         func(m *store.Manifest) { m.Revision = "current" },
		"a negative size":              func(m *store.Manifest) { m.Files[0].Size, m.Bytes = -1, m.Bytes-m.Files[0].Size-1 },
		"sizes that overflow":          func(m *store.Manifest) { m.Files[0].Size, m.Files[1].Size = 1<<62, 1<<62 },
		"another model than is staged": func(m *store.Manifest) { m.Name = "other" },
		"a ref that leaves the view":   func(m *store.Manifest) { m.Source = repo + "@../../../../escaped" },
	} {
		t.Run(name, func(t *testing.T) {
			g := stage(t, s, "bad")
			m := manifest("bad", "s3://bucket/x", "r1", tiny)
			spoil(&m)
			if err := g.Publish(t.Context(), m); err == nil {
				t.Error("published")
			}
			must(t, g.Abandon())
			closeStaging(t, g)
			if got := published(t, s); got != "good@"+commitA {
				t.Errorf("published %q", got)
			}
			if escaped, err := filepath.Glob(filepath.Join(filepath.Dir(s.Dir()), "*")); err != nil || len(escaped) != 1 {
				t.Errorf("beside the store: %q, %v", escaped, err)
			}
		})
	}
}

func TestStageOneAtATime(t *testing.T) {
	s := newStore(t)
	first := stage(t, s, "tiny")
	second := open(t, s.Dir()) // as another process has it
	waits, got := make(chan struct{}), make(chan error, 1)
	go func() {
		g, err := second.Stage(t.Context(), "tiny", func() { close(waits) })
		if err == nil {
			err = g.Close()
		}
		got <- err
	}()
	<-waits
	other := stage(t, s, "other") // does not wait for tiny
	closeStaging(t, other)
	select {
	case err := <-got:
		t.Fatalf("two at once: %v", err)
	default:
	}
	closeStaging(t, first)
	must(t, <-got)
}

func TestRevisions(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, tiny)
	publish(t, s, "tiny", repo, commitB, map[string]string{"config.json": "new", "model.safetensors": "weights"})
	revisions, err := s.Revisions("tiny")
	must(t, err)
	if len(revisions) != 2 || revisions[0].Revision != commitB {
		t.Errorf("revisions: %+v", revisions)
	}
	if got := published(t, s); got != "tiny@"+commitB {
		t.Errorf("published %q", got)
	}
	for _, m := range revisions {
		must(t, s.Check(t.Context(), m))
	}

	if err := s.RemoveRevision(t.Context(), "tiny", commitB); err == nil {
		t.Error("removed the current revision")
	}
	if err := s.RemoveRevision(t.Context(), "tiny", "none"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("removed what is not there: %v", err)
	}
	must(t, s.RemoveRevision(t.Context(), "tiny", commitA))
	if exists(t, s.Path("tiny", commitA)) || exists(t, hubDir(s, "snapshots/"+commitA)) || exists(t, hubDir(s, "trees/"+commitA+".json")) {
		t.Error("the old revision is still visible")
	}
	if _, err := s.Manifest("tiny", commitA); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the old manifest: %v", err)
	}
	gc(t, s, 0)
	m, err := s.Lookup("tiny")
	must(t, err)
	must(t, s.Check(t.Context(), m))
}

// current on a revision that was never published does not make the published
// one superseded.
func TestRemoveRevisionAfterACrash(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, tiny)
	link := filepath.Join(s.Dir(), "models/tiny/current")
	must(t, os.Remove(link))
	must(t, os.Symlink(commitB, link))
	if m, err := s.Lookup("tiny"); err != nil || m.Revision != commitA {
		t.Errorf("Lookup: %s, %v", m.Revision, err)
	}
	if err := s.RemoveRevision(t.Context(), "tiny", commitA); err == nil {
		t.Error("removed the only published revision")
	}
	gc(t, s, time.Hour)
	if target, err := os.Readlink(link); err != nil || target != commitA {
		t.Errorf("after a collection current is %q, %v", target, err)
	}
}

func TestRemove(t *testing.T) {
	s := newStore(t)
	publish(t, s, "a", repo, commitA, tiny)
	b := publish(t, s, "b", repo, commitA, map[string]string{"model.safetensors": "weights"})
	must(t, s.WriteStatus(store.Status{Name: "a"}))
	if err := s.Remove(t.Context(), "c"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("removed what is not there: %v", err)
	}
	for _, name := range []string{"", "..", ".", "a/b", ".hidden", `a\b`} {
		if err := s.Remove(t.Context(), name); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("Remove(%q): %v", name, err)
		}
	}
	must(t, s.Remove(t.Context(), "a"))
	if got := published(t, s); got != "b@"+commitA {
		t.Errorf("published %q", got)
	}
	for _, path := range []string{"models/a", "manifests/a", "status/a.json", "agent/pulls/a"} {
		if exists(t, filepath.Join(s.Dir(), path)) {
			t.Errorf("%s is still there", path)
		}
	}
	checkFiles(t, hubDir(s, "snapshots/"+commitA), map[string]string{"model.safetensors": "weights"})
	if res := gc(t, s, 0); res.RemovedBlobs != 2 {
		t.Errorf("collected %+v, want the two contents that only a had", res)
	}
	must(t, s.Check(t.Context(), b))
	must(t, s.Remove(t.Context(), "b"))
	if exists(t, hubDir(s, "")) {
		t.Error("the view of the repository is still there")
	}
	if res := gc(t, s, 0); res.RemovedBlobs != 1 {
		t.Errorf("collected %+v", res)
	}
}

func TestModesWithTightUmask(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	s := newStore(t)
	publish(t, s, "tiny", repo+"@refs/pr/1", commitA, tiny)
	must(t, s.WriteStatus(store.Status{Name: "tiny"}))
	must(t, s.WriteHeartbeat(store.Heartbeat{}))
	err := filepath.WalkDir(s.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || strings.Contains(path, "/agent/") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o644)
		switch {
		case d.IsDir():
			want = 0o755
		case info.Mode()&fs.ModeSymlink != 0:
			want = info.Mode().Perm()
		case strings.Contains(path, "/blobs/"):
			want = 0o444
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	})
	must(t, err)
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if _, err := store.OpenReadOnly(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenReadOnly: %v", err)
	}
	if _, err := store.OpenExisting(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenExisting: %v", err)
	}
	if _, err := store.Open(""); err == nil {
		t.Error("opened a store without a name")
	}
	writeFile(t, filepath.Join(dir, "file"), "x")
	for _, f := range []func(string) (*store.Store, error){store.Open, store.OpenReadOnly, store.OpenExisting} {
		if _, err := f(filepath.Join(dir, "file")); err == nil {
			t.Error("opened a file as a store")
		}
	}
	// The store itself may be a link; what it is made of may not.
	real := filepath.Join(dir, "real")
	must(t, os.Mkdir(real, 0o755))
	must(t, os.Symlink(real, filepath.Join(dir, "link")))
	s := open(t, filepath.Join(dir, "link"))
	publish(t, s, "tiny", repo, commitA, tiny)
	checkFiles(t, s.Path("tiny", commitA), tiny)
	must(t, os.Rename(filepath.Join(real, "blobs"), filepath.Join(dir, "blobs")))
	must(t, os.Symlink(filepath.Join(dir, "blobs"), filepath.Join(real, "blobs")))
	if _, err := store.Open(real); err == nil || !strings.Contains(err.Error(), "blobs") {
		t.Errorf("opened a store whose blobs are elsewhere: %v", err)
	}
}

// A volume that is gone is an error, never an empty store that is made anew.
func TestVanishedVolume(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, tiny)
	must(t, os.Rename(s.Dir(), s.Dir()+".gone"))
	if _, err := s.Stage(t.Context(), "tiny", nil); err == nil {
		t.Error("staged on a volume that is gone")
	}
	if _, err := s.GC(t.Context(), 0); err == nil {
		t.Error("collected on a volume that is gone")
	}
	if err := s.WriteStatus(store.Status{Name: "tiny"}); err == nil {
		t.Error("wrote to a volume that is gone")
	}
	if exists(t, s.Dir()) {
		t.Error("the store was made anew")
	}
}

func TestReadOnly(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, "tiny", repo, commitA, tiny)
	before := snapshot(t, s.Dir())
	ro, err := store.OpenReadOnly(s.Dir())
	must(t, err)
	if ro.Writable() {
		t.Error("it says that it can be written")
	}
	_, stageErr := ro.Stage(t.Context(), "tiny", nil)
	_, gcErr := ro.GC(t.Context(), 0)
	for what, err := range map[string]error{
		"stage": stageErr, "gc": gcErr, "remove": ro.Remove(t.Context(), "tiny"), "remove revision": ro.RemoveRevision(t.Context(), "tiny", commitA),
		"status": ro.WriteStatus(store.Status{Name: "x"}), "remove status": ro.RemoveStatus("x"), "heartbeat": ro.WriteHeartbeat(store.Heartbeat{}),
	} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, ro.Check(t.Context(), m))
	if res, err := ro.Verify(t.Context(), m, nil); err != nil || len(res.Problems) > 0 || res.Files != 4 {
		t.Errorf("verify: %+v, %v", res, err)
	}
	if after := snapshot(t, s.Dir()); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
