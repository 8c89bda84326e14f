package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// damages are what can happen to a published model; stat shows all but rot.
var damages = map[string]func(t *testing.T, s *store.Store, m store.Manifest){
	"blob deleted": func(t *testing.T, s *store.Store, _ store.Manifest) {
		t.Helper()
		must(t, os.Remove(s.BlobPath(sumOf("weights"))))
	},
	"blob cut": func(t *testing.T, s *store.Store, _ store.Manifest) {
		t.Helper()
		must(t, os.Truncate(s.BlobPath(sumOf("weights")), 3))
	},
	"blob replaced by one of its size": func(t *testing.T, s *store.Store, _ store.Manifest) {
		t.Helper()
		blob := s.BlobPath(sumOf("weights"))
		info, err := os.Stat(blob)
		must(t, err)
		must(t, os.Remove(blob))
		writeFile(t, blob, "WEIGHTS")
		must(t, os.Chtimes(blob, info.ModTime(), info.ModTime().Add(-time.Second)))
	},
	"blob overwritten": func(t *testing.T, s *store.Store, _ store.Manifest) {
		t.Helper()
		blob := s.BlobPath(sumOf("weights"))
		must(t, os.Chmod(blob, 0o644))
		must(t, os.WriteFile(blob, []byte("WEIGHTS"), 0o644))
		later := time.Now().Add(time.Minute)
		must(t, os.Chtimes(blob, later, later))
	},
	"blob that is a link to the same bytes": func(t *testing.T, s *store.Store, _ store.Manifest) {
		t.Helper()
		blob, outside := s.BlobPath(sumOf("weights")), filepath.Join(filepath.Dir(s.Dir()), "outside")
		must(t, os.Rename(blob, outside))
		must(t, os.Symlink(outside, blob))
	},
	"blob that is a pipe": func(t *testing.T, s *store.Store, _ store.Manifest) {
		t.Helper()
		must(t, os.Remove(s.BlobPath(sumOf("weights"))))
		must(t, syscall.Mkfifo(s.BlobPath(sumOf("weights")), 0o644))
	},
	"blob that is a folder": func(t *testing.T, s *store.Store, _ store.Manifest) {
		t.Helper()
		must(t, os.Remove(s.BlobPath(sumOf("weights"))))
		must(t, os.Mkdir(s.BlobPath(sumOf("weights")), 0o755))
	},
	"link deleted": func(t *testing.T, s *store.Store, m store.Manifest) {
		t.Helper()
		must(t, os.Remove(filepath.Join(s.Path(m.Name, m.Revision), "config.json")))
	},
	"link to other content": func(t *testing.T, s *store.Store, m store.Manifest) {
		t.Helper()
		link := filepath.Join(s.Path(m.Name, m.Revision), "config.json")
		must(t, os.Remove(link))
		must(t, os.Symlink("../../../blobs/sha256/"+sumOf("weights"), link))
	},
	"link that is a file": func(t *testing.T, s *store.Store, m store.Manifest) {
		t.Helper()
		link := filepath.Join(s.Path(m.Name, m.Revision), "config.json")
		must(t, os.Remove(link))
		writeFile(t, link, "{}")
	},
	"link that is a folder": func(t *testing.T, s *store.Store, m store.Manifest) {
		t.Helper()
		link := filepath.Join(s.Path(m.Name, m.Revision), "config.json")
		must(t, os.Remove(link))
		writeFile(t, filepath.Join(link, "x"), "{}")
	},
	"folder that is a file": func(t *testing.T, s *store.Store, m store.Manifest) {
		t.Helper()
		folder := filepath.Join(s.Path(m.Name, m.Revision), "sub")
		must(t, os.RemoveAll(folder))
		writeFile(t, folder, "x")
	},
	"folder that is a link": func(t *testing.T, s *store.Store, m store.Manifest) {
		t.Helper()
		folder, outside := filepath.Join(s.Path(m.Name, m.Revision), "sub"), filepath.Join(filepath.Dir(s.Dir()), "outside")
		must(t, os.Rename(folder, outside))
		must(t, os.Symlink(outside, folder))
	},
	"model that is a link": func(t *testing.T, s *store.Store, m store.Manifest) {
		t.Helper()
		folder, outside := filepath.Join(s.Dir(), "models", m.Name), filepath.Join(filepath.Dir(s.Dir()), "outside")
		must(t, os.Rename(folder, outside))
		must(t, os.Symlink(outside, folder))
	},
	"revision deleted": func(t *testing.T, s *store.Store, m store.Manifest) {
		t.Helper()
		must(t, os.RemoveAll(s.Path(m.Name, m.Revision)))
	},
}

// withDamage runs f on each damage of a model that shares its weights with
// another.
func withDamage(t *testing.T, f func(t *testing.T, s *store.Store, m store.Manifest)) {
	t.Helper()
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			publish(t, s, "other", "s3://bucket/x", "r1", map[string]string{"x.safetensors": "weights"})
			m := publish(t, s, "tiny", repo, commitA, tiny)
			damage(t, s, m)
			f(t, s, m)
		})
	}
}

func TestCheckSeesDamage(t *testing.T) {
	withDamage(t, func(t *testing.T, s *store.Store, m store.Manifest) {
		t.Helper()
		if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "tiny") {
			t.Errorf("Check: %v", err)
		}
	})
}

// The next pull mends whatever happened, and nothing outside is touched.
func TestPublishAgainMendsDamage(t *testing.T) {
	withDamage(t, func(t *testing.T, s *store.Store, _ store.Manifest) {
		t.Helper()
		outside := filepath.Join(filepath.Dir(s.Dir()), "outside")
		before := ""
		if exists(t, outside) {
			before = snapshot(t, outside)
		}
		m := publish(t, s, "tiny", repo, commitA, tiny)
		must(t, s.Check(t.Context(), m))
		checkFiles(t, s.Path("tiny", commitA), tiny)
		checkFiles(t, hubDir(s, "snapshots/"+commitA), tiny)
		if res, err := s.Verify(t.Context(), m, nil); err != nil || len(res.Problems) > 0 {
			t.Errorf("Verify: %+v, %v", res, err)
		}
		if before != "" && snapshot(t, outside) != before {
			t.Errorf("outside the store: before\n%s\nafter\n%s", before, snapshot(t, outside))
		}
	})
}

func TestVerifyWithdrawsDamage(t *testing.T) {
	withDamage(t, func(t *testing.T, s *store.Store, m store.Manifest) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // a pipe must not hold it
		defer cancel()
		name := strings.TrimPrefix(t.Name(), "TestVerifyWithdrawsDamage/")
		res, err := s.Verify(ctx, m, nil)
		must(t, err)
		if name == "blob_overwritten" || len(res.Problems) > 0 {
			must(t, ctx.Err())
		}
		if len(res.Problems) == 0 || res.Problems[0].Reason == "" || res.Problems[0].Path == "" {
			t.Fatalf("Verify: %+v", res)
		}
		want := ""
		if !strings.HasPrefix(name, "blob") {
			want = "other@r1" // its bytes are right
		}
		if got := published(t, s); got != want {
			t.Errorf("published %q, want %q", got, want)
		}
		if got := withdrawn(t, s); !strings.Contains(got, "tiny@"+commitA) {
			t.Errorf("withdrawn %q", got)
		}
		if exists(t, hubDir(s, "snapshots/"+commitA)) {
			t.Error("the view for the Hub's readers still shows it")
		}
		// Good content waits for the next pull, which then forgets this.
		gc(t, s, 0)
		if !exists(t, s.BlobPath(sumOf("{}"))) || !exists(t, s.BlobPath(sumOf("tokens"))) {
			t.Error("good content was collected")
		}
		m = publish(t, s, "tiny", repo, commitA, tiny)
		must(t, s.Check(t.Context(), m))
		if got := withdrawn(t, s); strings.Contains(got, "tiny") {
			t.Errorf("withdrawn %q", got)
		}
	})
}

// Rot that stat cannot show is what Verify is for.
func TestVerifyFindsRot(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, "tiny", repo, commitA, tiny)
	blob := s.BlobPath(sumOf("weights"))
	info, err := os.Stat(blob)
	must(t, err)
	must(t, os.Chmod(blob, 0o644))
	f, err := os.OpenFile(blob, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("wEights")
	must(t, errors.Join(err, f.Close()))
	must(t, os.Chtimes(blob, info.ModTime(), info.ModTime()))
	must(t, s.Check(t.Context(), m))

	before := snapshot(t, s.Dir())
	ro, err := store.OpenReadOnly(s.Dir())
	must(t, err)
	if res, err := ro.Verify(t.Context(), m, nil); err != nil || len(res.Problems) != 2 {
		t.Errorf("read-only: %+v, %v", res, err)
	}
	if after := snapshot(t, s.Dir()); after != before {
		t.Errorf("a read-only look changed\n%s\nto\n%s", before, after)
	}

	read := 0
	res, err := s.Verify(t.Context(), m, func(n int) { read += n })
	must(t, err)
	if len(res.Problems) != 2 || res.Files != 4 || read != len("{}tokensweights") {
		t.Errorf("%+v, read %d bytes", res, read)
	}
	if got := published(t, s); got != "" {
		t.Errorf("published %q", got)
	}
	if exists(t, blob) || exists(t, filepath.Join(s.Dir(), "models/tiny/current")) {
		t.Error("the bad blob, or current, is still in place")
	}
	if aside, err := filepath.Glob(filepath.Join(s.Dir(), "agent/quarantine/*")); err != nil || len(aside) != 1 {
		t.Errorf("quarantined %q, %v", aside, err)
	}
	gc(t, s, 0)
	if aside, err := filepath.Glob(filepath.Join(s.Dir(), "agent/quarantine/*")); err != nil || len(aside) != 0 {
		t.Errorf("quarantined %q, %v", aside, err)
	}
}

// A withdrawn current falls back to the revision before, if that is right.
func TestWithdrawFallsBack(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, map[string]string{"x": "old"})
	m := publish(t, s, "tiny", repo, commitB, map[string]string{"x": "new"})
	must(t, os.Truncate(s.BlobPath(sumOf("new")), 1))
	_, err := s.Verify(t.Context(), m, nil)
	must(t, err)
	if got := published(t, s); got != "tiny@"+commitA {
		t.Errorf("published %q", got)
	}
	if target, err := os.Readlink(filepath.Join(s.Dir(), "models/tiny/current")); err != nil || target != commitA {
		t.Errorf("current is %q, %v", target, err)
	}
	if got := withdrawn(t, s); got != "tiny@"+commitB {
		t.Errorf("withdrawn %q", got)
	}
}

// A model that was removed while it was being verified stays removed.
func TestVerifyOfWhatWasRemoved(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, "tiny", repo, commitA, tiny)
	must(t, s.Remove(t.Context(), "tiny"))
	gc(t, s, 0)
	res, err := s.Verify(t.Context(), m, nil)
	if !errors.Is(err, store.ErrNotFound) || len(res.Problems) > 0 {
		t.Errorf("Verify: %+v, %v", res, err)
	}
	if got := withdrawn(t, s); got != "" {
		t.Errorf("withdrawn %q", got)
	}
}

// A verification that finishes after a pull has mended the model does not take
// the good one away.
func TestVerifyOfWhatWasMended(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, "tiny", repo, commitA, map[string]string{"a": "first", "b": "second"})
	must(t, os.Truncate(s.BlobPath(sumOf("first")), 1))
	mended := false
	_, err := s.Verify(t.Context(), m, func(int) {
		if mended {
			return
		}
		mended = true // the bad bytes are read; now, before they are judged
		g := stage(t, s, "tiny")
		defer closeStaging(t, g)
		must(t, os.Remove(s.BlobPath(sumOf("first"))))
		admit(t, g, "first")
		admit(t, g, "second")
		must(t, g.Publish(t.Context(), manifest("tiny", repo, commitA, map[string]string{"a": "first", "b": "second"})))
	})
	must(t, err)
	if got := published(t, s); !mended || got != "tiny@"+commitA {
		t.Errorf("mended %v, published %q", mended, got)
	}
	now, err := s.Lookup("tiny")
	must(t, err)
	must(t, s.Check(t.Context(), now))
}

// What is asked for with a size that it cannot have is the asker's fault.
func TestHasWithFalseSize(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, "tiny", repo, commitA, tiny)
	g := stage(t, s, "evil")
	defer closeStaging(t, g)
	if here, err := g.Has(t.Context(), sumOf("weights"), 8, nil); here || !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Has: %v, %v", here, err)
	}
	must(t, s.Check(t.Context(), m))
	if got := published(t, s); got != "tiny@"+commitA {
		t.Errorf("published %q", got)
	}
}

// Without its record a blob is hashed once more, and then trusted again.
func TestHasWithoutRecord(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"deleted": os.Remove,
		"damaged": func(path string) error { return os.WriteFile(path, []byte("{"), 0o644) },
		"empty":   func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"false":   func(path string) error { return os.WriteFile(path, []byte(`{"size":7,"inode":1}`), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			m := publish(t, s, "tiny", repo, commitA, tiny)
			must(t, spoil(filepath.Join(s.Dir(), "agent/verified", sumOf("weights")+".json")))
			if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("Check: %v", err)
			}
			must(t, s.Present(t.Context(), m))
			g := stage(t, s, "tiny")
			defer closeStaging(t, g)
			for i, want := range []int{7, 0} {
				read := 0
				if here, err := g.Has(t.Context(), sumOf("weights"), 7, func(n int) { read += n }); !here || err != nil || read != want {
					t.Errorf("look %d: %v, %v, %d bytes read, want %d", i, here, err, read, want)
				}
			}
			must(t, s.Check(t.Context(), m))
		})
	}
}

// Of many bad blobs each is put aside, with every model that uses one withdrawn,
// also when somebody ends the look before it has seen all.
func TestVerifyOfMuchDamage(t *testing.T) {
	for name, stop := range map[string]bool{"to the end": false, "ended": true} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			m := publish(t, s, "tiny", repo, commitA, map[string]string{"a": "first", "b": "second", "c": "third", "d": "fourth"})
			publish(t, s, "other", repo, commitB, map[string]string{"x": "second"})
			publish(t, s, "good", repo, commitB, map[string]string{"x": "third"})
			for _, content := range []string{"first", "second"} {
				must(t, os.Truncate(s.BlobPath(sumOf(content)), 1))
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			res, err := s.Verify(ctx, m, func(n int) {
				if stop && n == len("third") {
					cancel()
				}
			})
			if stop != errors.Is(err, context.Canceled) || len(res.Problems) != 2 {
				t.Errorf("%+v, %v", res, err)
			}
			if got := published(t, s); got != "good@"+commitB {
				t.Errorf("published %q", got)
			}
			if aside, err := filepath.Glob(s.AgentFile("quarantine/*")); err != nil || len(aside) != 2 {
				t.Errorf("quarantined %q, %v", aside, err)
			}
			for _, content := range []string{"first", "second"} {
				if exists(t, s.BlobPath(sumOf(content))) {
					t.Errorf("the blob of %q is still in place", content)
				}
			}
		})
	}
}

// What finds nothing wrong and nothing new writes nothing.
func TestVerifyAgainWritesNothing(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, "tiny", repo, commitA, tiny)
	before := snapshot(t, s.AgentFile("verified"))
	if res, err := s.Verify(t.Context(), m, nil); err != nil || len(res.Problems) > 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if after := snapshot(t, s.AgentFile("verified")); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// A manifest that cannot be read is no secret, and goes like any other superseded
// revision; publishing and collecting leave it, because a label may still name it.
func TestDamagedManifestGoes(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, tiny)
	for name, damage := range map[string]func(path string) error{
		"empty":    func(path string) error { return os.Truncate(path, 0) },
		"a folder": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(s.Dir(), "manifests", "tiny", commitA+".json")
			must(t, damage(path))
			publish(t, s, "tiny", repo, commitB, tiny)
			if _, err := s.GC(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if damaged, err := s.Damaged("tiny"); err != nil || !slices.Equal(damaged, []string{commitA}) {
				t.Errorf("damaged are %v, %v", damaged, err)
			}
			must(t, s.RemoveRevision(t.Context(), "tiny", commitA))
			_, manifestErr := os.Lstat(path)
			_, folderErr := os.Lstat(s.Path("tiny", commitA))
			if !errors.Is(manifestErr, os.ErrNotExist) || !errors.Is(folderErr, os.ErrNotExist) {
				t.Errorf("its manifest: %v; its folder: %v", manifestErr, folderErr)
			}
			m, err := s.Lookup("tiny")
			if err != nil || m.Revision != commitB || s.Check(t.Context(), m) != nil {
				t.Errorf("the current one: %+v, %v", m, err)
			}
			// The next damage is done to a revision that is there again.
			publish(t, s, "tiny", repo, commitA, tiny)
			must(t, s.RemoveRevision(t.Context(), "tiny", commitB))
		})
	}
}
