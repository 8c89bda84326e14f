package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher/store"
)

// A model that is removed after it was listed is no finding. Who named it is told.
func TestVerifyOfModelThatIsRemoved(t *testing.T) {
	for name, c := range map[string]struct {
		names []string
		said  string
	}{
		"named":     {[]string{"m"}, "stoker: m (revision REVISION) was removed while it was verified\n"},
		"not named": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := store.Open(publish(t, "m"))
			if err != nil {
				t.Fatal(err)
			}
			targets, results, err := listTargets(s, c.names)
			if err != nil || len(targets) != 1 {
				t.Fatal(targets, err)
			}
			if err := s.Remove(t.Context(), "m"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.GC(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr strings.Builder
			cmd := &cli{stdout: &stdout, stderr: &stderr, logFormat: "text"}
			if err := cmd.verifyTargets(t.Context(), s, targets, results, c.names, "table"); err != nil {
				t.Error(err)
			}
			if want := "NAME  REVISION  FILES  SIZE  RESULT\n"; stdout.String() != want {
				t.Errorf("standard output has %q", stdout.String())
			}
			_, said, _ := strings.Cut(stderr.String(), "verifying m")
			_, said, _ = strings.Cut(said, "\n")
			if want := strings.ReplaceAll(c.said, "REVISION", short(targets[0].Revision)); said != want {
				t.Errorf("standard error has %q, want %q", said, want)
			}
		})
	}
}

// One that is published still and lacks something is a finding.
func TestVerifyOfModelThatIsDamaged(t *testing.T) {
	dir := publish(t, "m")
	if err := os.RemoveAll(filepath.Join(dir, "blobs/sha256")); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := call(t, "verify", "m", "--store", dir); code != exitCorrupt || !strings.Contains(stdout, "is missing") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}

func TestStillPublished(t *testing.T) {
	s, err := store.Open(publish(t, "m"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Lookup("m")
	if err != nil {
		t.Fatal(err)
	}
	if !stillPublished(s, m) {
		t.Error("what is published is not")
	}
	other := m
	other.PublishedAt = m.PublishedAt.Add(1)
	if stillPublished(s, other) {
		t.Error("what was replaced is published still")
	}
	if err := s.Remove(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if stillPublished(s, m) {
		t.Error("what was removed is published still")
	}
}
