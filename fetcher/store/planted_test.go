package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stoker-project/stoker/fetcher/store"
)

// Whatever links stand in a store, nothing is written, changed or removed where
// they lead to, by anything that a store does.
func TestPlantedLinks(t *testing.T) {
	for _, planted := range []string{
		"models/tiny", "models/tiny/" + commitA, "models/tiny/" + commitA + "/sub", "models/tiny/current", "manifests/tiny", "manifests/tiny/" + commitA + ".json",
		"hub/models--acme--tiny", "hub/models--acme--tiny/snapshots", "hub/models--acme--tiny/snapshots/" + commitA, "hub/models--acme--tiny/refs",
		"hub/models--acme--tiny/refs/main", "hub/models--acme--tiny/trees", "hub/models--acme--tiny/trees/" + commitA + ".json",
		"blobs/sha256/" + sumOf("weights"), "partial/" + sumOf("weights"), "partial/" + sumOf("weights") + ".json", "agent/pulls/tiny", "agent/locks/model-tiny.lock",
		"agent/withdrawn/tiny", "agent/verified/" + sumOf("weights") + ".json", "status/tiny.json", "status/agent.json",
	} {
		for _, kind := range []string{"folder", "file", "nothing"} {
			t.Run(planted+" to a "+kind, func(t *testing.T) {
				t.Parallel()
				s := newStore(t)
				outside := filepath.Join(filepath.Dir(s.Dir()), "outside")
				writeFile(t, filepath.Join(outside, "folder/current"), "x")
				writeFile(t, filepath.Join(outside, "folder", commitA, "config.json"), "x")
				writeFile(t, filepath.Join(outside, "folder", commitA+".json"), "x")
				writeFile(t, filepath.Join(outside, "file"), "x")
				before := snapshot(t, outside)
				link := filepath.Join(s.Dir(), planted)
				must(t, os.MkdirAll(filepath.Dir(link), 0o755))
				must(t, os.Symlink(filepath.Join(outside, kind), link))

				exercise(t, s)
				if after := snapshot(t, outside); after != before {
					t.Errorf("outside: before\n%s\nafter\n%s", before, after)
				}
			})
		}
	}
}

// exercise does everything that writes. What it comes to does not matter here,
// but for a model that was published.
func exercise(t *testing.T, s *store.Store) {
	t.Helper()
	ctx := t.Context()
	pull := func(revision string) error {
		g, err := s.Stage(ctx, "tiny", nil)
		if err != nil {
			return err
		}
		defer func() { must(t, g.Close()) }()
		for _, content := range tiny {
			sum := sumOf(content)
			must(t, g.Keep(ctx, sum))
			if here, err := g.Has(ctx, sum, int64(len(content)), nil); here || err != nil {
				must(t, err)
				continue
			}
			p, err := g.OpenPartial(ctx, sum, "sha256:"+sum, int64(len(content)), nil)
			if err != nil {
				return err
			}
			must(t, p.Reset())
			if _, err := p.WriteAt([]byte(content), 0); err != nil {
				return err
			}
			must(t, p.Sync())
			must(t, g.Admit(ctx, p, sum, "sha256:"+sum))
		}
		return g.Publish(ctx, manifest("tiny", repo+"@main", revision, tiny))
	}
	for _, revision := range []string{commitA, commitB, commitA} {
		if err := pull(revision); err != nil {
			t.Log("pull:", err)
			continue
		}
		m, err := s.Lookup("tiny")
		must(t, err)
		must(t, s.Check(ctx, m))
		checkFiles(t, s.Path("tiny", revision), tiny)
		if _, err := s.Verify(ctx, m, nil); err != nil {
			t.Error(err)
		}
	}
	must(t, s.WriteStatus(store.Status{Name: "tiny"}))
	must(t, s.WriteHeartbeat(store.Heartbeat{}))
	for what, err := range map[string]error{
		"remove revision": s.RemoveRevision(ctx, "tiny", commitB),
		"remove":          s.Remove(ctx, "tiny"),
		"remove status":   s.RemoveStatus("tiny"),
	} {
		if err != nil {
			t.Log(what+":", err)
		}
	}
	if _, err := s.GC(ctx, 0); err != nil {
		t.Log("gc:", err)
	}
}
