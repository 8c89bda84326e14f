package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// life is what a writer does with a store: it publishes two revisions, brings a
// damaged file back, removes one revision, then the model, and collects.
func life(t *testing.T, s *Store) error {
	ctx := t.Context()
	pull := func(revision string, contents ...string) error {
		g, err := s.Stage(ctx, "m", nil)
		if err != nil {
			return err
		}
		m := Manifest{Name: "m", Source: "hf://acme/m", Revision: revision, PublishedAt: time.Now()}
		for _, content := range contents {
			sum := digest(content)
			m.Bytes += int64(len(content))
			m.Files = append(m.Files, ManifestFile{Path: "sub/" + content, Size: int64(len(content)), SHA256: sum, VouchedBy: "sha256:" + sum})
			if err == nil {
				err = g.Keep(ctx, sum)
			}
			if has, hasErr := g.Has(ctx, sum, int64(len(content)), nil); err != nil || has || hasErr != nil {
				err = errors.Join(err, hasErr)
				continue
			}
			if strings.HasPrefix(content, "small") {
				err = g.AdmitSmall(ctx, []Small{{SHA256: sum, Key: "k", Content: []byte(content)}})
				continue
			}
			var p *Partial
			if p, err = g.OpenPartial(ctx, sum, sum, int64(len(content)), nil); err != nil {
				continue
			}
			_, err = p.WriteAt([]byte(content), 0)
			if err == nil {
				err = p.Checkpoint(0, nil)
			}
			if err == nil {
				err = p.Sync()
			}
			if err == nil {
				err = g.Admit(ctx, p, sum, "k")
			}
			err = errors.Join(err, p.Close())
		}
		if err == nil {
			err = g.Publish(ctx, m)
		}
		return errors.Join(err, g.Close())
	}
	damage := func() error {
		if err := os.WriteFile(s.BlobPath(digest("large")), []byte("LARGE"), 0o644); err != nil {
			return err
		}
		m, err := s.Lookup("m")
		if err == nil {
			_, err = s.Verify(ctx, m, nil)
		}
		return err
	}
	collect := func() error {
		_, err := s.GC(ctx, 0)
		return err
	}
	for _, step := range []func() error{
		func() error { return pull("r1", "large", "small") },
		func() error { return pull("r2", "large", "other") },
		func() error { return s.RemoveRevision(ctx, "m", "r1") },
		collect,
		damage,
		func() error { return pull("r2", "large", "other") },
		func() error { return s.Remove(ctx, "m") },
		collect,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// promised is everything in a store that somebody may rely on, with its bytes.
func promised(t *testing.T, dir string) map[string]string {
	all := map[string]string{}
	for _, part := range []string{"blobs", "models", "manifests", "hub", "agent/verified", "agent/withdrawn"} {
		err := filepath.WalkDir(filepath.Join(dir, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if d.Type()&fs.ModeSymlink != 0 {
				all[path], err = os.Readlink(path)
				return err
			}
			data, err := os.ReadFile(path)
			all[path] = string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func shared(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := OpenShared(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Wherever in its work a writer is paused when another one follows it: when it goes
// on, it changes nothing that anybody relies on.
func TestFencedAtEveryStep(t *testing.T) {
	whole := shared(t, t.TempDir())
	if err := whole.Lead(t.Context()); err != nil {
		t.Fatal(err)
	}
	steps := 0
	whole.term.Load().paused = func() { steps++ }
	if err := life(t, whole); err != nil {
		t.Fatal(err)
	}
	if steps < 100 {
		t.Fatalf("the whole of it takes %d steps: this test counts something else", steps)
	}
	for at := 1; at <= steps; at++ {
		dir := t.TempDir()
		old, next := shared(t, dir), shared(t, dir)
		if err := old.Lead(t.Context()); err != nil {
			t.Fatal(err)
		}
		step, paused, goOn := 0, make(chan struct{}), make(chan struct{})
		old.term.Load().paused = func() {
			if step++; step == at {
				close(paused)
				<-goOn
			}
		}
		ended := make(chan error, 1)
		go func() { ended <- life(t, old) }()
		<-paused
		if err := next.Lead(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := promised(t, dir)
		close(goOn)
		if err := <-ended; !errors.Is(err, ErrFenced) {
			t.Errorf("paused at step %d of %d, it ended with: %v", at, steps, err)
		}
		after := promised(t, dir)
		for path, was := range before {
			if now, ok := after[path]; !ok || now != was {
				t.Errorf("paused at step %d, it changed %s", at, strings.TrimPrefix(path, dir))
			}
		}
		for path := range after {
			if _, ok := before[path]; !ok {
				t.Errorf("paused at step %d, it made %s", at, strings.TrimPrefix(path, dir))
			}
		}
		if at%20 != 0 {
			continue
		}
		if err := life(t, next); err != nil {
			t.Errorf("step %d: the next writer: %v", at, err)
		}
		if left, err := next.epochs(); err != nil || len(left) != 1 || left[0] != next.term.Load().epoch {
			t.Errorf("step %d: terms left: %v, %v", at, left, err)
		}
	}
}
