package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

func age(t *testing.T, path string, by time.Duration) {
	t.Helper()
	at := time.Now().Add(-by)
	must(t, os.Chtimes(path, at, at))
}

func TestGCKeepsWhatAPullCountsOn(t *testing.T) {
	s := newStore(t)
	g := stage(t, s, "tiny")
	admit(t, g, "weights")
	plan := filepath.Join(s.Dir(), "agent/pulls/tiny")
	age(t, plan, 100*time.Hour)
	// However old its plan is: it is at work.
	if res := gc(t, s, 0); res.RemovedBlobs != 0 || res.KeptBytes != 7 {
		t.Errorf("while a pull is at work: %+v", res)
	}
	closeStaging(t, g)
	age(t, plan, time.Hour)
	if res := gc(t, s, 2*time.Hour); res.RemovedBlobs != 0 || res.KeptBytes != 7 {
		t.Errorf("soon after: %+v", res)
	}
	if res := gc(t, s, time.Hour); res.RemovedBlobs != 1 || res.RemovedBytes != 7 || res.KeptBytes != 0 {
		t.Errorf("long after: %+v", res)
	}
	if exists(t, plan) || exists(t, s.BlobPath(sumOf("weights"))) || exists(t, filepath.Join(s.Dir(), "agent/verified", sumOf("weights")+".json")) {
		t.Error("plan, blob or record are still there")
	}
}

// Content that two models need goes when neither needs it.
func TestGCSharedContent(t *testing.T) {
	s := newStore(t)
	publish(t, s, "a", repo, commitA, tiny)
	g := stage(t, s, "b")
	must(t, g.Keep(t.Context(), sumOf("weights")))
	must(t, s.Remove(t.Context(), "a"))
	if res := gc(t, s, 0); res.RemovedBlobs != 2 {
		t.Errorf("%+v", res)
	}
	if here, err := g.Has(t.Context(), sumOf("weights"), 7, nil); err != nil || !here {
		t.Errorf("the content that was counted on: %v, %v", here, err)
	}
	closeStaging(t, g)
	if res := gc(t, s, 0); res.RemovedBlobs != 1 {
		t.Errorf("%+v", res)
	}
}

func TestGCPartials(t *testing.T) {
	s := newStore(t)
	g := stage(t, s, "tiny")
	begin := func(content string) *store.Partial {
		p, err := g.OpenPartial(t.Context(), sumOf(content), "sha256:"+sumOf(content), 1000, nil)
		must(t, err)
		_, err = p.WriteAt([]byte(content), 0)
		must(t, err)
		return p
	}
	path := func(content string) string { return filepath.Join(s.Dir(), "partial", sumOf(content)) }
	open := begin("open")
	must(t, begin("young").Close())
	must(t, begin("old").Close())
	age(t, path("old"), 3*time.Hour)
	age(t, path("open"), 3*time.Hour)
	writeFile(t, path("journal only")+".json", "{}")
	writeFile(t, filepath.Join(s.Dir(), "partial/stray"), "x")
	writeFile(t, filepath.Join(s.Dir(), "partial/folder/x"), "x")
	must(t, os.Symlink("/etc", filepath.Join(s.Dir(), "partial", sumOf("link"))))

	if res := gc(t, s, 2*time.Hour); res.RemovedPartials != 1 || res.RemovedBytes != 3 || res.KeptBytes != 5 {
		t.Errorf("%+v", res)
	}
	entries, err := os.ReadDir(filepath.Join(s.Dir(), "partial"))
	must(t, err)
	if len(entries) != 4 || !exists(t, path("young")+".json") || !exists(t, path("open")+".json") {
		t.Errorf("left: %v", entries)
	}
	must(t, open.Close())
	closeStaging(t, g)
	if res := gc(t, s, 0); res.RemovedPartials != 2 {
		t.Errorf("%+v", res)
	}
	if entries, err = os.ReadDir(filepath.Join(s.Dir(), "partial")); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// What a kill leaves between the steps of publishing and removing is brought in
// line; what is published, and what is not the store's, stays.
func TestGCTidies(t *testing.T) {
	s := newStore(t)
	files := map[string]string{"x": "old", ".tmp-mine": "a file may be called so"}
	a := publish(t, s, "tiny", repo+"@main", commitA, files)
	publish(t, s, "tiny", repo+"@main", commitB, map[string]string{"x": "new"})
	must(t, os.Remove(filepath.Join(s.Dir(), "manifests/tiny", commitB+".json")))
	writeFile(t, filepath.Join(s.Dir(), "models/gone/r1/x"), "x")
	must(t, os.Symlink("r1", filepath.Join(s.Dir(), "models/gone/current")))
	must(t, os.MkdirAll(filepath.Join(s.Dir(), "hub/models--no--such/snapshots/x"), 0o755))
	writeFile(t, filepath.Join(s.Dir(), "agent/verified", sumOf("none")+".json"), "{}")
	writeFile(t, filepath.Join(s.Dir(), "lost+found/.stoker-tmp-x"), "not ours")
	writeFile(t, filepath.Join(s.Dir(), "agent/list.json"), "the agent's")
	for _, path := range []string{"manifests/tiny/.stoker-tmp-1", "models/tiny/.stoker-tmp-current-1-0", "hub/models--acme--tiny/refs/.stoker-tmp-2", "status/.stoker-tmp-3"} {
		writeFile(t, filepath.Join(s.Dir(), path), "x")
		age(t, filepath.Join(s.Dir(), path), time.Hour)
	}
	writeFile(t, filepath.Join(s.Dir(), "status/.stoker-tmp-young"), "somebody's")

	gc(t, s, 0)
	if got := published(t, s); got != "tiny@"+commitA {
		t.Errorf("published %q", got)
	}
	must(t, s.Check(t.Context(), a))
	checkFiles(t, s.Path("tiny", commitA), files)
	checkFiles(t, hubDir(s, "snapshots/"+commitA), files)
	if target, err := os.Readlink(filepath.Join(s.Dir(), "models/tiny/current")); err != nil || target != commitA {
		t.Errorf("current is %q, %v", target, err)
	}
	if got := ref(t, hubDir(s, "refs/main")); got != commitA {
		t.Errorf("main is %q", got)
	}
	for path, want := range map[string]bool{
		"models/tiny/" + commitB: false, "models/gone": false, "hub/models--no--such": false, "hub/models--acme--tiny/snapshots/" + commitB: false,
		"agent/verified/" + sumOf("none") + ".json": false,
		"manifests/tiny/.stoker-tmp-1":              false, "models/tiny/.stoker-tmp-current-1-0": false, "hub/models--acme--tiny/refs/.stoker-tmp-2": false, "status/.stoker-tmp-3": false,
		"status/.stoker-tmp-young": true, "lost+found/.stoker-tmp-x": true, "agent/list.json": true,
	} {
		if got := exists(t, filepath.Join(s.Dir(), path)); got != want {
			t.Errorf("%s is there: %v, want %v", path, got, want)
		}
	}
}

// A plan that a power cut or a kill damaged keeps what it can, and is no
// obstacle.
func TestGCDamagedPlans(t *testing.T) {
	for name, text := range map[string]string{
		"zeros":          strings.Repeat("\x00", 1<<16),
		"one long line":  strings.Repeat("x", 3<<20),
		"cut short":      sumOf("a") + " sha256:" + sumOf("a")[:10],
		"cut in a hash":  sumOf("a")[:30],
		"hostile hashes": "../../../etc/passwd\n" + strings.Repeat("A", 64) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			plan := filepath.Join(s.Dir(), "agent/pulls/tiny")
			writeFile(t, plan, sumOf("first")+" key first\n"+text)
			gc(t, s, time.Hour)
			g := stage(t, s, "tiny")
			admit(t, g, "second")
			finished, err := g.Finished()
			must(t, err)
			if len(finished) != 2 || finished["key first"] != sumOf("first") || finished["sha256:"+sumOf("second")] != sumOf("second") {
				t.Errorf("finished %q", finished)
			}
			closeStaging(t, g)
			if res := gc(t, s, time.Hour); res.RemovedBlobs != 0 {
				t.Errorf("collected what the plan holds: %+v", res)
			}
		})
	}
}

// What a newer stoker published is not judged, and nothing of it is collected.
func TestNewerManifest(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, tiny)
	publish(t, s, "newer", "s3://bucket/x", "r1", map[string]string{"x": "y"})
	path := filepath.Join(s.Dir(), "manifests/newer/r1.json")
	text, err := os.ReadFile(path)
	must(t, err)
	writeFile(t, path, strings.Replace(string(text), `"formatVersion":1`, `"formatVersion":2`, 1))
	if got := published(t, s); got != "tiny@"+commitA {
		t.Errorf("published %q", got)
	}
	if _, err := s.Lookup("newer"); err == nil || !strings.Contains(err.Error(), "newer stoker") {
		t.Errorf("Lookup: %v", err)
	}
	if _, err := s.GC(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "newer stoker") {
		t.Errorf("GC: %v", err)
	}
	if !exists(t, s.BlobPath(sumOf("y"))) {
		t.Error("its content was collected")
	}
	publish(t, s, "tiny", repo, commitB, map[string]string{"x": "z"}) // it does not stand in the way
}

func TestUsage(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, map[string]string{"x": strings.Repeat("x", 100_000)})
	before, err := s.Usage()
	must(t, err)
	if before.StoreBytes < 100_000 || before.StoreBytes > 300_000 || before.TotalBytes <= 0 || before.FreeBytes <= 0 || before.FreeBytes > before.TotalBytes {
		t.Errorf("usage %+v", before)
	}
	g := stage(t, s, "other")
	defer closeStaging(t, g)
	p, err := g.OpenPartial(t.Context(), sumOf("big"), "big", 8<<20, nil)
	must(t, err)
	must(t, p.Close())
	held, err := s.PartialBytes(sumOf("big"))
	must(t, err)
	after, err := s.Usage()
	must(t, err)
	// What is reserved is taken: else a quota would count it for nobody.
	if grown := after.StoreBytes - before.StoreBytes; grown < held {
		t.Errorf("a transfer holds %d bytes, the usage grew by %d", held, grown)
	}
	if n, err := s.PartialBytes(sumOf("none")); n != 0 || err != nil {
		t.Errorf("no transfer holds %d, %v", n, err)
	}
}

// The store's own path is no pattern.
func TestStoreInAnOddFolder(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a[b]*? c\\d"))
	m := publish(t, s, "tiny", repo, commitA, tiny)
	must(t, os.Remove(s.BlobPath(sumOf("weights"))))
	if _, err := s.Verify(t.Context(), m, nil); err != nil {
		t.Error(err)
	}
	if got := withdrawn(t, s); got != "tiny@"+commitA {
		t.Errorf("withdrawn %q", got)
	}
	if res := gc(t, s, 0); res.RemovedBlobs != 0 {
		t.Errorf("collected %+v", res)
	}
	must(t, s.Check(t.Context(), publish(t, s, "tiny", repo, commitA, tiny)))
}
