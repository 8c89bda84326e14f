package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher/store"
)

func openShared(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.OpenShared(dir)
	if err != nil {
		t.Fatal(err)
	}
	must(t, s.Ensure(t.Context()))
	return s
}

func lead(t *testing.T, s *store.Store) {
	t.Helper()
	must(t, s.Lead(t.Context()))
}

func TestFollowerWritesNothing(t *testing.T) {
	dir := t.TempDir()
	writer := openShared(t, dir)
	lead(t, writer)
	m := publish(t, writer, "tiny", repo, commitA, tiny)
	before := snapshot(t, dir)
	s := openShared(t, dir)
	must(t, s.Ensure(t.Context()))
	must(t, s.Check(t.Context(), m))
	if got := published(t, s); got != "tiny@"+commitA {
		t.Errorf("it sees %q", got)
	}
	if _, err := s.Usage(); err != nil {
		t.Error(err)
	}
	if res, err := s.Verify(t.Context(), m, nil); err != nil || len(res.Problems) > 0 {
		t.Errorf("it verifies %v, %v", res, err)
	}
	for what, err := range map[string]error{
		"remove":      s.Remove(t.Context(), "tiny"),
		"status":      s.WriteStatus(store.Status{Name: "tiny"}),
		"heartbeat":   s.WriteHeartbeat(store.Heartbeat{}),
		"agent file":  s.WriteAgentFile("x", []byte("x")),
		"no revision": s.RemoveRevision(t.Context(), "tiny", commitA),
	} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.Stage(t.Context(), "tiny", nil); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("stage: %v", err)
	}
	if s.Writable() || !writer.Writable() {
		t.Error("who may write is mixed up")
	}
	if after := snapshot(t, dir); after != before {
		t.Errorf("it changed the store:\n%s\nwas\n%s", after, before)
	}
}

// A machine's own tools keep out of a store in which machines take turns.
func TestSharedStoreIsNotOpenedForWriting(t *testing.T) {
	dir := t.TempDir()
	writer := openShared(t, dir)
	lead(t, writer)
	publish(t, writer, "tiny", repo, commitA, tiny)
	if _, err := store.Open(dir); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "several machines") {
		t.Errorf("opened: %v", err)
	}
	s, err := store.OpenExisting(dir)
	if err != nil || s.Writable() || published(t, s) != "tiny@"+commitA {
		t.Errorf("to look at it: %v", err)
	}
}

func TestNewerStoreIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	writer := openShared(t, dir)
	lead(t, writer)
	writeFile(t, writer.AgentFile("format"), "2\n")
	before := snapshot(t, dir)
	s, err := store.OpenShared(dir)
	must(t, err)
	for what, err := range map[string]error{"look": s.Ensure(t.Context()), "lead": s.Lead(t.Context())} {
		if !errors.Is(err, store.ErrNewer) || !strings.Contains(err.Error(), "newer stoker") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after := snapshot(t, dir); after != before {
		t.Errorf("it changed the store:\n%s\nwas\n%s", after, before)
	}
}

// What another writer has begun is gone on with, in a copy: that one may have its file
// open, and write late. It is read back whole, because it may have before, too.
func TestResumesWhatAnotherWriterBegan(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 1<<16)
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("written-before-%t", before), func(t *testing.T) {
			dir := t.TempDir()
			old, next := openShared(t, dir), openShared(t, dir)
			lead(t, old)
			sum, half := sumOf(content), len(content)/2
			g := stage(t, old, "m")
			p, err := g.OpenPartial(t.Context(), sum, "sha256:"+sum, int64(len(content)), nil)
			must(t, err)
			_, err = p.WriteAt([]byte(content[:half]), 0)
			must(t, err)
			must(t, p.Checkpoint(0, nil))

			lead(t, next)
			late := func() {
				_, err = p.WriteAt([]byte("XXXX"), 100)
				must(t, err)
			}
			if before {
				late()
			}
			g2 := stage(t, next, "m")
			must(t, g2.Keep(t.Context(), sum))
			p2, err := g2.OpenPartial(t.Context(), sum, "sha256:"+sum, int64(len(content)), nil)
			must(t, err)
			if p2.Front() != int64(half) || p2.Waited {
				t.Fatalf("it goes on at %d, waited %v", p2.Front(), p2.Waited)
			}
			_, err = p2.WriteAt([]byte(content[half:]), int64(half))
			must(t, err)
			must(t, p2.Sync())
			late()
			err = g2.Admit(t.Context(), p2, sum, "k")
			if before {
				if !errors.Is(err, store.ErrLost) || !strings.Contains(err.Error(), "another agent") {
					t.Errorf("admitted: %v", err)
				}
				return
			}
			must(t, err)
			m := manifest("m", repo, commitA, map[string]string{"f": content})
			must(t, g2.Publish(t.Context(), m))
			must(t, next.Check(t.Context(), m))
			// After all: it is written into a file without a name.
			late()
			must(t, next.Check(t.Context(), m))
			if got, err := os.ReadFile(next.BlobPath(sum)); err != nil || string(got) != content {
				t.Errorf("a late write reaches what is published: %v", err)
			}
			if err := g.Admit(t.Context(), p, sum, "k"); !errors.Is(err, store.ErrFenced) {
				t.Errorf("the old writer admits: %v", err)
			}
		})
	}
}

// Work of an earlier term that has not ended would go on in the new one.
func TestLeadsOnlyWhenItsOwnWorkHasEnded(t *testing.T) {
	dir := t.TempDir()
	s := openShared(t, dir)
	lead(t, s)
	g := stage(t, s, "m")
	s.Follow()
	if err := s.Lead(t.Context()); !errors.Is(err, store.ErrBusy) {
		t.Errorf("it leads: %v", err)
	}
	if err := g.Close(); err == nil {
		t.Error("what has no term any more ends as if it had")
	}
	lead(t, s)
	if err := openShared(t, dir).Lead(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.WriteAgentFile("x", []byte("x")); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a fenced writer writes: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "agent/x")); err == nil {
		t.Error("and it is there")
	}
}

// Somebody empties the volume while the writer is paused: what the next one begins
// must not let the old one in again.
func TestFencedWhenTheVolumeWasEmptied(t *testing.T) {
	dir := t.TempDir()
	old, next := openShared(t, dir), openShared(t, dir)
	lead(t, old)
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		must(t, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if err := old.WriteAgentFile("x", []byte("x")); !errors.Is(err, store.ErrFenced) {
		t.Errorf("it writes into nothing: %v", err)
	}
	lead(t, next)
	if err := old.WriteAgentFile("x", []byte("x")); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a fenced writer writes: %v", err)
	}
	must(t, next.WriteAgentFile("y", []byte("y")))
}
