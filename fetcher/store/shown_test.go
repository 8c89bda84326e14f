package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher/store"
)

// What a pod cannot read is no good to it, whatever the bytes are. A pull makes
// it readable, and fetches nothing for that.
func TestUnreadableModes(t *testing.T) {
	blob := "blobs/sha256/" + sumOf("weights")
	for name, c := range map[string]struct {
		path string
		mode fs.FileMode
		good bool
	}{
		"the store":               {".", 0o750, false},
		"blobs":                   {"blobs", 0o700, false},
		"blobs by digest":         {"blobs/sha256", 0o711, false},
		"models":                  {"models", 0o754, false},
		"the model's folder":      {"models/tiny", 0o700, false},
		"the revision's folder":   {"models/tiny/" + commitA, 0o751, false},
		"a folder of the files":   {"models/tiny/" + commitA + "/sub/deep", 0o700, false},
		"manifests":               {"manifests", 0o700, false},
		"the model's manifests":   {"manifests/tiny", 0o700, false},
		"the manifest":            {"manifests/tiny/" + commitA + ".json", 0o600, false},
		"a blob":                  {blob, 0o400, false},
		"a blob for the group":    {blob, 0o440, false},
		"a blob not for its user": {blob, 0o044, false},
		"a blob for nobody":       {blob, 0, false},
		"a blob that is writable": {blob, 0o644, true},
		"a folder for everybody":  {"blobs", 0o777, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			m := publish(t, s, "tiny", repo, commitA, tiny)
			before := cutTimes(snapshot(t, filepath.Join(s.Dir(), "blobs")))
			path := filepath.Join(s.Dir(), c.path)
			must(t, os.Chmod(path, c.mode))
			err := s.Check(t.Context(), m)
			if errors.Is(err, store.ErrCorrupt) == c.good || c.good && err != nil {
				t.Errorf("Check: %v", err)
			}
			if c.good {
				return
			}
			if errors.Is(err, store.ErrUnverified) || !strings.Contains(err.Error(), "tiny") {
				t.Errorf("Check says: %v", err)
			}
			if c.path == blob {
				g := stage(t, s, "tiny")
				defer closeStaging(t, g)
				here, err := g.Has(t.Context(), sumOf("weights"), 7, func(int) { t.Error("reads it again") })
				if err != nil || !here {
					t.Errorf("has it: %v, %v", here, err)
				}
			} else {
				m = publish(t, open(t, s.Dir()), "tiny", repo, commitA, tiny)
			}
			must(t, s.Check(t.Context(), m))
			if after := cutTimes(snapshot(t, filepath.Join(s.Dir(), "blobs"))); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

// cutTimes leaves of a snapshot what only files have: the times of folders are
// those of what was in them for a moment.
func cutTimes(snapshot string) string {
	var files []string
	for line := range strings.Lines(snapshot) {
		if !strings.HasPrefix(line, "d") {
			files = append(files, line)
		}
	}
	return strings.Join(files, "")
}

// A blob that may have changed and is unreadable is read again.
func TestUnreadableAndChanged(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, "tiny", repo, commitA, tiny)
	blob := s.BlobPath(sumOf("weights"))
	info, err := os.Stat(blob)
	must(t, err)
	must(t, os.Chtimes(blob, info.ModTime(), info.ModTime().Add(1)))
	must(t, os.Chmod(blob, 0))
	if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrUnverified) {
		t.Errorf("Check: %v", err)
	}
	g := stage(t, s, "tiny")
	defer closeStaging(t, g)
	read := 0
	if here, err := g.Has(t.Context(), sumOf("weights"), 7, func(n int) { read += n }); err != nil || !here || read != 7 {
		t.Errorf("has it: %v, %v, after %d bytes", here, err, read)
	}
	must(t, s.Check(t.Context(), m))
}
