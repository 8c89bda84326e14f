package store_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stoker-project/stoker/fetcher/store"
)

// begin opens a transfer of the weights and writes all of it.
func begin(t *testing.T, g *store.Staging) *store.Partial {
	t.Helper()
	p, err := g.OpenPartial(t.Context(), sumOf("weights"), "sha256:"+sumOf("weights"), 7, nil)
	must(t, err)
	rewrite(t, p)
	return p
}

func rewrite(t *testing.T, p *store.Partial) {
	t.Helper()
	must(t, p.Reset())
	_, err := p.WriteAt([]byte("weights"), 0)
	must(t, err)
	must(t, p.Sync())
}

// Somebody else's file in the place of a transfer, or a second name of its file, never
// becomes a blob: what was verified is other bytes, or may be written to. The transfer
// begins anew, in a file of its own.
func TestTransferInOtherHands(t *testing.T) {
	for name, attack := range map[string]func(partial, outside string) error{
		"another file": func(partial, outside string) error { return os.Rename(outside, partial) },
		"a link": func(partial, outside string) error {
			return errors.Join(os.Remove(partial), os.Symlink(outside, partial))
		},
		"a second name": func(partial, outside string) error { return errors.Join(os.Remove(outside), os.Link(partial, outside)) },
		"nothing":       func(partial, _ string) error { return os.Remove(partial) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			outside := filepath.Join(filepath.Dir(s.Dir()), "outside")
			writeFile(t, outside, "HOSTILE")
			g := stage(t, s, "tiny")
			defer closeStaging(t, g)
			p := begin(t, g)
			must(t, attack(filepath.Join(s.Dir(), "partial", sumOf("weights")), outside))
			if err := g.Admit(t.Context(), p, sumOf("weights"), "key"); !errors.Is(err, store.ErrLost) {
				t.Fatalf("admitted: %v", err)
			}
			if here, err := g.Has(t.Context(), sumOf("weights"), 7, nil); here || err != nil {
				t.Errorf("has it: %v, %v", here, err)
			}
			before := ""
			if exists(t, outside) {
				before = snapshot(t, outside)
			}
			rewrite(t, p)
			if before != "" && snapshot(t, outside) != before {
				t.Errorf("outside: before\n%s\nafter\n%s", before, snapshot(t, outside))
			}
			must(t, g.Admit(t.Context(), p, sumOf("weights"), "key"))
			if here, err := g.Has(t.Context(), sumOf("weights"), 7, nil); !here || err != nil {
				t.Errorf("has it: %v, %v", here, err)
			}
			content, err := os.ReadFile(s.BlobPath(sumOf("weights")))
			if err != nil || string(content) != "weights" {
				t.Errorf("the blob has %q, %v", content, err)
			}
			if before != "" && snapshot(t, outside) != before {
				t.Errorf("outside: before\n%s\nafter\n%s", before, snapshot(t, outside))
			}
		})
	}
}

// A blob gets its mode when its bytes are known to be right, and not through a second
// name of its file.
func TestModesOfBlobs(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		mode    fs.FileMode
		linked  bool
		kept    bool // the file itself goes on to be the blob
	}{
		"setuid":                    {"weights", 0o755 | fs.ModeSetuid, false, true},
		"setgid":                    {"weights", 0o444 | fs.ModeSetgid, false, true},
		"sticky":                    {"weights", 0o444 | fs.ModeSticky, false, true},
		"private":                   {"weights", 0o600, false, true},
		"private, other bytes":      {"HOSTILE", 0o600, false, false},
		"two names":                 {"weights", 0o444, true, true},
		"two names, private":        {"weights", 0o600, true, false},
		"two names, setuid":         {"weights", 0o555 | fs.ModeSetuid, true, false},
		"two names, setuid of none": {"weights", 0o444 | fs.ModeSetuid, true, true},
		"two names, other bytes":    {"HOSTILE", 0o600, true, false},
		"other bytes, for everyone": {"HOSTILE", 0o644, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			publish(t, s, "tiny", repo, commitA, tiny)
			blob := s.BlobPath(sumOf("weights"))
			must(t, os.Remove(blob))
			outside := filepath.Join(filepath.Dir(s.Dir()), "outside")
			writeFile(t, outside, c.content)
			must(t, os.Chmod(outside, c.mode))
			seen, err := os.Stat(outside)
			must(t, err)
			if c.linked {
				must(t, os.Link(outside, blob))
			} else {
				must(t, os.Rename(outside, blob))
			}
			must(t, pullTiny(t, s, commitA))
			m, err := s.Lookup("tiny")
			must(t, err)
			must(t, s.Check(t.Context(), m))
			checkFiles(t, s.Path("tiny", commitA), tiny)
			info, err := os.Lstat(blob)
			if err != nil || info.Mode()&^0o111 != 0o444 && info.Mode() != 0o644 && (!c.linked || !c.kept) {
				t.Errorf("the blob has mode %v, %v", info.Mode(), err)
			}
			if os.SameFile(info, seen) != c.kept {
				t.Errorf("the blob is the same file: %v", !c.kept)
			}
			if now, err := os.Stat(outside); c.linked && (err != nil || now.Mode() != seen.Mode() || !now.ModTime().Equal(seen.ModTime())) {
				t.Errorf("the other name has mode %v, %v", now.Mode(), err)
			}
		})
	}
}

// Content that is right is not called damaged for its mode.
func TestModesAreNotContent(t *testing.T) {
	for name, c := range map[string]struct {
		mode fs.FileMode
		says string // empty: it is right
	}{
		"setuid":              {0o444 | fs.ModeSetuid, ""},
		"setgid":              {0o644 | fs.ModeSetgid, ""},
		"setuid, may be run":  {0o555 | fs.ModeSetuid, "which is more than to be read; its content is right, but the file has 2 names"},
		"private":             {0o600, "not every pod may read it; its content is right, but the file has 2 names"},
		"private, and setuid": {0o600 | fs.ModeSetuid, "not every pod may read it; its content is right"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			publish(t, s, "tiny", repo, commitA, tiny)
			blob := s.BlobPath(sumOf("weights"))
			must(t, os.Link(blob, filepath.Join(filepath.Dir(s.Dir()), "outside")))
			must(t, os.Chmod(blob, c.mode))
			m, err := s.Lookup("tiny")
			must(t, err)
			checked := s.Check(t.Context(), m)
			if c.says == "" && checked != nil || c.says != "" && (!errors.Is(checked, store.ErrCorrupt) || strings.Contains(checked.Error(), store.ErrCorrupt.Error())) {
				t.Errorf("checked: %v", checked)
			}
			res, err := s.Verify(t.Context(), m, nil)
			must(t, err)
			var reasons []string
			for _, p := range res.Problems {
				reasons = append(reasons, p.Reason)
			}
			if said := strings.Join(reasons, "\n"); (c.says == "") != (said == "") || !strings.Contains(said, c.says) || strings.Contains(said, store.ErrCorrupt.Error()) {
				t.Errorf("verified: %s", said)
			}
		})
	}
}

// Whoever can open a file may lock it, and pods see the store.
func TestLocksAreNotForPods(t *testing.T) {
	s := newStore(t)
	must(t, os.WriteFile(filepath.Join(s.Dir(), "agent/locks/layout.lock"), nil, 0o644)) // an earlier stoker's
	g := stage(t, s, "tiny")
	defer closeStaging(t, g)
	must(t, g.Keep(t.Context(), sumOf("weights")))
	p := begin(t, g)
	defer func() { must(t, p.Close()) }()
	for _, path := range []string{"agent/locks/layout.lock", "agent/locks/model-tiny.lock", "partial/" + sumOf("weights")} {
		info, err := os.Stat(filepath.Join(s.Dir(), path))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
	}
}

// While pulls, removals and collections work, files of the store are swapped for
// links, pipes and other files all the time: nothing hangs, nothing outside changes, and
// what is published in the end is right.
func TestSwapsBesideWork(t *testing.T) {
	s := newStore(t)
	outside := filepath.Join(filepath.Dir(s.Dir()), "outside")
	writeFile(t, outside, "HOSTILE")
	must(t, os.Chmod(outside, 0o600))
	before := snapshot(t, outside)

	ctx, stop := context.WithCancel(t.Context())
	var swapping sync.WaitGroup
	kinds := attacks()
	delete(kinds, "folder") // its removal is not at once
	for part := range 2 {
		swapping.Go(func() {
			for i := part; ctx.Err() == nil; i++ {
				path := filepath.Join(s.Dir(), places()[i%len(places())])
				if strings.Contains(path, "/locks/") {
					continue // two of this package's own could then work at once
				}
				evil := filepath.Join(filepath.Dir(s.Dir()), "evil") + string(rune('a'+part))
				names := slices.Sorted(maps.Keys(kinds))
				_ = os.RemoveAll(evil)
				if kinds[names[i/7%len(names)]](evil, outside) == nil {
					_ = os.Rename(evil, path) // the place may not be there now
				}
			}
		})
	}
	pulled := 0
	for i := range 30 {
		soon(t, "round", func() {
			revision := []string{commitA, commitB}[i%2]
			if err := pullTiny(t, s, revision); err == nil {
				pulled++
			}
			if m, err := s.Lookup("tiny"); err == nil {
				_ = s.Check(t.Context(), m)
				_, _ = s.Verify(t.Context(), m, nil)
			}
			_, _ = s.GC(t.Context(), 0)
			if i%5 == 0 {
				_ = s.Remove(t.Context(), "tiny")
			}
		})
	}
	stop()
	swapping.Wait()
	t.Logf("%d of 30 pulls succeeded", pulled)
	workThrough(t, s.Dir())
	if after := snapshot(t, outside); after != before {
		t.Errorf("outside: before\n%s\nafter\n%s", before, after)
	}
}
