package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// attacks put something in the place of a file of a store.
func attacks() map[string]func(path, outside string) error {
	return map[string]func(path, outside string) error{
		"pipe":   func(path, _ string) error { return syscall.Mkfifo(path, 0o666) },
		"folder": func(path, _ string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o755) },
		"link":   func(path, outside string) error { return os.Symlink(outside, path) },
		"loop":   func(path, _ string) error { return os.Symlink(filepath.Base(path), path) },
		"name":   func(path, outside string) error { return os.Link(outside, path) },
		"sparse": func(path, _ string) error {
			return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 3<<40))
		},
	}
}

// places are the files of a store by which it is read and written, in the order in
// which exercise comes upon them.
func places() []string {
	weights := sumOf("weights")
	return []string{
		"agent/store-id", "agent/locks/model-tiny.lock", "agent/locks/layout.lock", "agent/pulls/tiny", "agent/pulls/other", "agent/progress/tiny.json",
		"agent/verified/" + weights + ".json", "agent/withdrawn/tiny/" + commitA + ".json", "partial/" + weights, "partial/" + weights + ".json",
		"blobs/sha256/" + weights, "manifests/tiny/" + commitA + ".json", "manifests/other/" + commitA + ".json", "models/tiny", "models/tiny/current",
		"models/tiny/" + commitA + "/config.json", "hub/models--acme--tiny/refs/main", "hub/models--acme--tiny/refs", "hub/models--acme--tiny/refs/v1",
		"hub/models--acme--tiny/trees/" + commitA + ".json", "status/tiny.json", "status/agent.json",
	}
}

// soon fails the test if do has not ended after half a minute.
func soon(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
		t.Logf("%s: %s", what, time.Since(began).Round(time.Millisecond))
	case <-time.After(30 * time.Second):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s hangs:\n%s", what, stacks[:runtime.Stack(stacks, true)])
	}
}

// Whatever is in the place of one of its files, a store neither hangs nor reads more
// than a file of that kind has, nor changes what it is elsewhere; what can be mended,
// the next pull mends.
func TestPlantedFiles(t *testing.T) {
	for _, place := range places() {
		for kind, plant := range attacks() {
			for _, when := range []string{"before", "after"} {
				if when == "before" && kind != "pipe" && kind != "link" {
					continue // what is there is met in the same ways
				}
				t.Run(when+" "+kind+" "+place, func(t *testing.T) {
					t.Parallel()
					s := newStore(t)
					outside := filepath.Join(filepath.Dir(s.Dir()), "outside")
					writeFile(t, outside, "weights")
					must(t, os.Chmod(outside, 0o600|fs.ModeSetuid))
					if when == "after" {
						publish(t, s, "tiny", repo+"@main", commitA, tiny)
					}
					before := snapshot(t, outside)
					path := filepath.Join(s.Dir(), place)
					must(t, os.RemoveAll(path))
					must(t, os.MkdirAll(filepath.Dir(path), 0o755))
					must(t, plant(path, outside))

					soon(t, "look", func() { lookAround(t, s.Dir()) })
					soon(t, "work", func() { workThrough(t, s.Dir()) })
					if after := snapshot(t, outside); after != before {
						t.Errorf("outside: before\n%s\nafter\n%s", before, after)
					}
				})
			}
		}
	}
}

// lookAround reads all that a store has, as a pod may. Nothing is wrong with the store
// itself.
func lookAround(t *testing.T, dir string) {
	s, err := store.OpenReadOnly(dir)
	if err != nil {
		t.Error(err)
		return
	}
	all, err := s.Published()
	if err != nil {
		t.Error("published:", err)
	}
	for _, m := range all {
		for what, err := range map[string]error{"check": s.Check(t.Context(), m), "present": s.Present(t.Context(), m)} {
			if err != nil && !errors.Is(err, store.ErrCorrupt) {
				t.Error(what+":", err)
			}
		}
		if _, err := s.Verify(t.Context(), m, nil); err != nil {
			t.Error("verify:", err)
		}
	}
	_, statusErr := s.ReadStatus("tiny")
	_, beatErr := s.ReadHeartbeat()
	_, progressErr := s.ReadProgress("tiny")
	_, withdrawnErr := s.Withdrawn()
	for what, err := range map[string]error{"status": statusErr, "heartbeat": beatErr, "progress": progressErr, "withdrawn": withdrawnErr} {
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrCorrupt) {
			t.Error(what+":", err)
		}
	}
}

// workThrough pulls, verifies, removes and collects, each of which must succeed.
func workThrough(t *testing.T, dir string) {
	s, err := store.Open(dir)
	if err != nil {
		t.Error("open:", err)
		return
	}
	for _, revision := range []string{commitA, commitB} {
		if err := pullTiny(t, s, revision); err != nil {
			t.Error("pull:", err)
			return
		}
		m, err := s.Lookup("tiny")
		if err == nil {
			err = s.Check(t.Context(), m)
		}
		if err == nil {
			_, err = s.Verify(t.Context(), m, nil)
		}
		if err != nil {
			t.Error("verify:", err)
		}
		info, err := os.Stat(s.BlobPath(sumOf("weights")))
		if err != nil || info.Mode()&^fs.ModePerm != 0 {
			t.Errorf("the blob has mode %v, %v", info.Mode(), err)
		}
		checkFiles(t, s.Path("tiny", revision), tiny)
	}
	_, gcErr := s.GC(t.Context(), 0)
	for what, err := range map[string]error{
		"write status": s.WriteStatus(store.Status{Name: "tiny"}), "write heartbeat": s.WriteHeartbeat(store.Heartbeat{}),
		"gc": gcErr, "remove revision": s.RemoveRevision(t.Context(), "tiny", commitA),
	} {
		if err != nil {
			t.Error(what+":", err)
		}
	}
	if err := s.Remove(t.Context(), "tiny"); err != nil {
		t.Error("remove:", err)
	}
	if _, err := s.GC(t.Context(), 0); err != nil {
		t.Error("gc:", err)
	}
	must(t, s.Ensure(t.Context()))
}

// pullTiny pulls the model tiny, as far as a store sees it.
func pullTiny(t *testing.T, s *store.Store, revision string) (err error) {
	ctx := t.Context()
	g, err := s.Stage(ctx, "tiny", nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if _, err := g.Finished(); err != nil {
		return err
	}
	if err := g.WriteProgress(store.Progress{}); err != nil {
		return err
	}
	for _, content := range tiny {
		sum := sumOf(content)
		if err := g.Keep(ctx, sum); err != nil {
			return err
		}
		here, err := g.Has(ctx, sum, int64(len(content)), nil)
		if err != nil {
			return err
		}
		for try := 0; !here; try++ {
			if err := transfer(t, g, content); err == nil {
				break
			} else if !errors.Is(err, store.ErrLost) || try == 2 {
				return err
			}
		}
	}
	return g.Publish(ctx, manifest("tiny", repo+"@main", revision, tiny))
}

// transfer brings one content in, resuming what is there.
func transfer(t *testing.T, g *store.Staging, content string) error {
	p, err := g.OpenPartial(t.Context(), sumOf(content), "sha256:"+sumOf(content), int64(len(content)), nil)
	if err != nil {
		return err
	}
	err = p.Reset()
	if err == nil {
		_, err = p.WriteAt([]byte(content), 0)
	}
	if err == nil {
		err = p.Sync()
	}
	if err == nil {
		err = g.Admit(t.Context(), p, sumOf(content), "sha256:"+sumOf(content))
	}
	if err != nil {
		return errors.Join(err, p.Close())
	}
	return nil
}

// What another user has put into a store is not read, and not written.
func TestPlantedByAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	for _, place := range places() {
		if strings.HasPrefix(place, "blobs/") || strings.HasPrefix(place, "models/") || place == "hub/models--acme--tiny/refs" {
			continue // judged by their content
		}
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			publish(t, s, "tiny", repo+"@main", commitA, tiny)
			must(t, s.WriteStatus(store.Status{Name: "tiny", State: "published"}))
			path := filepath.Join(s.Dir(), place)
			if !exists(t, path) {
				writeFile(t, path, "planted")
			}
			must(t, os.Lchown(path, 4242, 4242))
			lookAround(t, s.Dir())
			if strings.HasPrefix(place, "agent/locks/") {
				ctx := t.Context()
				if err := s.Remove(ctx, "tiny"); err == nil || !strings.Contains(err.Error(), "belongs to uid 4242") || !strings.Contains(err.Error(), path) {
					t.Errorf("remove: %v", err)
				}
				return
			}
			workThrough(t, s.Dir())
		})
	}
	s := newStore(t)
	publish(t, s, "tiny", repo+"@main", commitA, tiny)
	path := filepath.Join(s.Dir(), "manifests", "tiny", commitA+".json")
	must(t, os.Lchown(path, 4242, 4242))
	if got := published(t, s); got != "" {
		t.Errorf("published with another user's manifest: %s", got)
	}
	// The server gives root's files to another user.
	for _, dir := range []string{"agent", "."} {
		must(t, os.Chown(filepath.Join(s.Dir(), dir), 4242, 4242))
		if got := published(t, s); got != "tiny@"+commitA {
			t.Errorf("published in a store whose folder %s is that user's: %q", dir, got)
		}
		must(t, os.Chown(filepath.Join(s.Dir(), dir), 0, 0))
	}
}
