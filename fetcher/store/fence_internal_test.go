package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustLead(t *testing.T, s *Store) {
	t.Helper()
	mustDo(t, s.Lead(t.Context()))
}

func mustStage(t *testing.T, s *Store) *Staging {
	t.Helper()
	g, err := s.Stage(t.Context(), "m", nil)
	mustDo(t, err)
	return g
}

func mustOpen(t *testing.T, g *Staging, content string) *Partial {
	t.Helper()
	p, err := g.OpenPartial(t.Context(), digest(content), digest(content), int64(len(content)), nil)
	mustDo(t, err)
	return p
}

// overtaken has an old writer do one thing, once for each step that this takes,
// paused at that step while another one begins to lead and does what next does.
// Then the old one goes on, has to end with ErrFenced, and check is called.
func overtaken(t *testing.T, prepare, act func(old *Store) error, next, check func(t *testing.T, s *Store)) {
	t.Helper()
	for at := 1; ; at++ {
		dir := t.TempDir()
		old, other := shared(t, dir), shared(t, dir)
		mustLead(t, old)
		mustDo(t, prepare(old))
		step, paused, goOn := 0, make(chan struct{}), make(chan struct{})
		old.term.Load().paused = func() {
			if step++; step == at {
				close(paused)
				<-goOn
			}
		}
		ended := make(chan error, 1)
		go func() { ended <- act(old) }()
		select {
		case <-paused:
		case err := <-ended:
			if err != nil || at < 3 {
				t.Fatalf("not paused, it ended at step %d with: %v", step, err)
			}
			return
		}
		mustLead(t, other)
		next(t, other)
		close(goOn)
		if err := <-ended; err != nil && !errors.Is(err, ErrFenced) {
			t.Errorf("paused at step %d, it ended with: %v", at, err)
		}
		check(t, other)
		if t.Failed() {
			t.Fatalf("paused at step %d", at)
		}
	}
}

func nothing(*Store) error { return nil }

// half is what a machine may see of a line that another one is about to append.
const half = "1234"

// plans has the next writer begin a pull whose plan ends in the middle of a line.
func plans(t *testing.T, s *Store) {
	g := mustStage(t, s)
	mustDo(t, g.Keep(t.Context(), digest("next")))
	_, err := g.plan.WriteString(half)
	mustDo(t, err)
}

func hasPlan(t *testing.T, s *Store) {
	data, err := os.ReadFile(s.planPath("m"))
	if err != nil || !strings.HasSuffix(string(data), digest("next")+"\n"+half) {
		t.Errorf("the plan of the next writer: %q, %v", data, err)
	}
}

func TestOvertakenCollectionLeavesPlans(t *testing.T) {
	leave := func(s *Store) error {
		g, err := s.Stage(t.Context(), "m", nil)
		if err != nil {
			return err
		}
		return errors.Join(g.Keep(t.Context(), digest("old")), g.Close())
	}
	overtaken(t, leave, func(s *Store) error {
		_, err := s.GC(t.Context(), 0)
		return err
	}, plans, hasPlan)
}

func TestOvertakenPullLeavesPlans(t *testing.T) {
	overtaken(t, nothing, func(s *Store) error {
		g, err := s.Stage(t.Context(), "m", nil)
		if err != nil {
			return err
		}
		return errors.Join(g.Keep(t.Context(), digest("old")), g.Close())
	}, plans, hasPlan)
}

// A transfer that the next writer has begun is its own: no byte of it needs to be
// read back, because nobody else can have it open to write.
func TestOvertakenPullLeavesTransfers(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 1<<10)
	var g *Staging
	var p *Partial
	begin := func(t *testing.T, s *Store) {
		g = mustStage(t, s)
		mustDo(t, g.Keep(t.Context(), digest(content)))
		p = mustOpen(t, g, content)
		_, err := p.WriteAt([]byte(content), 0)
		mustDo(t, errors.Join(err, p.Sync()))
	}
	finish := func(t *testing.T, s *Store) {
		if p.foreign {
			t.Error("it takes its own transfer for another's")
		}
		mustDo(t, g.Admit(t.Context(), p, digest(content), "k"))
		if data, err := os.ReadFile(s.BlobPath(digest(content))); err != nil || string(data) != content {
			t.Errorf("what was admitted is not what was written: %d bytes, %v", len(data), err)
		}
	}
	for name, act := range map[string]func(s *Store, g *Staging) error{
		"begin": func(_ *Store, g *Staging) error {
			p, err := g.OpenPartial(t.Context(), digest(content), digest(content), int64(len(content)), nil)
			if err != nil {
				return err
			}
			_, err = p.WriteAt([]byte("wrong"), 0)
			return errors.Join(err, p.Close())
		},
		"begin-of-other-content": func(_ *Store, g *Staging) error {
			p, err := g.OpenPartial(t.Context(), digest(content), "other", 5, nil)
			if err != nil {
				return err
			}
			_, err = p.WriteAt([]byte("wrong"), 0)
			return errors.Join(err, p.Reset(), p.Close())
		},
		"collect": func(s *Store, _ *Staging) error {
			_, err := s.GC(t.Context(), 0)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var staging *Staging
			prepare := func(s *Store) error {
				staging = mustStage(t, s)
				return nil
			}
			overtaken(t, prepare, func(s *Store) error { return act(s, staging) }, begin, finish)
		})
	}
}

// One ref is in the place of another one's folder: the same commit, known by
// another branch.
func TestOvertakenPublishingLeavesRefs(t *testing.T) {
	const content = "small"
	m := Manifest{
		Name: "m", Source: "hf://acme/m@a/b", Revision: "r1", Bytes: int64(len(content)), PublishedAt: time.Now(),
		Files: []ManifestFile{{Path: "f", Size: int64(len(content)), SHA256: digest(content), VouchedBy: "sha256:" + digest(content)}},
	}
	var g *Staging
	stage := func(s *Store) error {
		g = mustStage(t, s)
		return g.AdmitSmall(t.Context(), []Small{{SHA256: digest(content), Key: "k", Content: []byte(content)}})
	}
	var before map[string]string
	overtaken(t, stage, func(*Store) error { return g.Publish(t.Context(), m) }, func(t *testing.T, s *Store) {
		g := mustStage(t, s)
		m := m
		m.Source = "hf://acme/m@a"
		mustDo(t, g.Publish(t.Context(), m))
		before = promised(t, s.dir)
	}, func(t *testing.T, s *Store) {
		after := promised(t, s.dir)
		for path, was := range before {
			if after[path] != was {
				t.Errorf("it changed %s from %q to %q", strings.TrimPrefix(path, s.dir), was, after[path])
			}
		}
	})
}

// What an earlier writer has begun and not written to yet: it may be about to.
func TestLateFirstWrite(t *testing.T) {
	const content = "0123456789"
	dir := t.TempDir()
	old, next := shared(t, dir), shared(t, dir)
	mustLead(t, old)
	late := mustOpen(t, mustStage(t, old), content)
	mustLead(t, next)
	g := mustStage(t, next)
	mustDo(t, g.Keep(t.Context(), digest(content)))
	p := mustOpen(t, g, content)
	_, err := p.WriteAt([]byte(content), 0)
	mustDo(t, errors.Join(err, p.Sync()))
	_, err = late.WriteAt([]byte("X"), 0) // nothing can refuse it
	mustDo(t, err)
	mustDo(t, g.Admit(t.Context(), p, digest(content), "k"))
	if data, err := os.ReadFile(next.BlobPath(digest(content))); err != nil || string(data) != content {
		t.Errorf("admitted: %q, %v", data, err)
	}
}

// A kill at any moment leaves a transfer that its owner may open again, root or not.
func TestTransfersStayWritable(t *testing.T) {
	const content = "0123456789"
	s := shared(t, t.TempDir())
	mustLead(t, s)
	g := mustStage(t, s)
	mustDo(t, g.Keep(t.Context(), digest(content)))
	p := mustOpen(t, g, content)
	_, err := p.WriteAt([]byte(content), 0)
	mustDo(t, errors.Join(err, p.Sync()))
	looks := 0
	s.term.Load().paused = func() {
		info, err := os.Lstat(p.path)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		looks++
		if err != nil || info.Mode().Perm()&0o600 != 0o600 {
			t.Errorf("a kill now leaves %v, %v", info.Mode(), err)
		}
	}
	mustDo(t, g.Admit(t.Context(), p, digest(content), "k"))
	if info, err := os.Lstat(s.BlobPath(digest(content))); err != nil || info.Mode().Perm() != blobMode || looks == 0 {
		t.Errorf("the blob: %v, %v, after %d looks", info.Mode(), err, looks)
	}
}

// A walk through a folder that cannot be read has an error and no entry.
func TestCollectTempsWithoutAnEntry(t *testing.T) {
	s := shared(t, t.TempDir())
	if err := s.collectTemp(filepath.Join(s.dir, "partial"), nil, fs.ErrPermission, 0); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

// A look at the file system is a write, too.
func TestFollowerProbesNothing(t *testing.T) {
	s := shared(t, t.TempDir())
	mustLead(t, s)
	s.Follow()
	s.volume = nil
	if _, err := s.findVolume(); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
}

// What a writer finds wrong when another one has taken over already, it cannot write
// down: it holds in this process until the bytes are read again and found right.
func TestRecheckOfWhatCouldNotBeWrittenDown(t *testing.T) {
	dir := t.TempDir()
	s, next := shared(t, dir), shared(t, dir)
	mustLead(t, s)
	sum := digest("content")
	g := mustStage(t, s)
	mustDo(t, g.AdmitSmall(t.Context(), []Small{{SHA256: sum, Key: "k", Content: []byte("content")}}))
	m := Manifest{
		FormatVersion: 1, Name: "m", Source: "hf://acme/tiny", Revision: strings.Repeat("a", 40), Bytes: 7, PublishedAt: time.Now().UTC(),
		Files: []ManifestFile{{Path: "f", Size: 7, SHA256: sum}},
	}
	mustDo(t, g.Publish(t.Context(), m))
	mustDo(t, g.Close())
	info, err := s.blobInfo(sum)
	mustDo(t, err)
	mustLead(t, next)
	if err := s.distrust(t.Context(), sum, info); !errors.Is(err, ErrFenced) {
		t.Fatalf("distrusted as a writer: %v", err)
	}
	s.Follow()
	if err := s.Check(t.Context(), m); !errors.Is(err, ErrUnverified) {
		t.Errorf("what was found wrong is called right: %v", err)
	}
	if changed, err := s.Recheck(t.Context(), time.Hour); changed || err != nil {
		t.Errorf("read again at once: %v, %v", changed, err)
	}

	// It is wrong on the disk, as stat does not show.
	spoil := func(content string) {
		mustDo(t, os.Chmod(s.BlobPath(sum), 0o644))
		mustDo(t, os.WriteFile(s.BlobPath(sum), []byte(content), 0o644))
		mustDo(t, os.Chtimes(s.BlobPath(sum), info.ModTime(), info.ModTime()))
		mustDo(t, os.Chmod(s.BlobPath(sum), info.Mode()))
	}
	spoil("CONTENT")
	if changed, err := s.Recheck(t.Context(), 0); changed || err != nil {
		t.Errorf("read again while it is wrong: %v, %v", changed, err)
	}
	if err := s.Check(t.Context(), m); !errors.Is(err, ErrUnverified) {
		t.Errorf("what is wrong is called right: %v", err)
	}

	spoil("content")
	if changed, err := s.Recheck(t.Context(), 0); !changed || err != nil {
		t.Errorf("read again: %v, %v", changed, err)
	}
	mustDo(t, s.Check(t.Context(), m))
}
