package volumes

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stoker-project/stoker/fetcher/store"
)

// pull pulls a model and returns how many bytes came from its source.
func pull(t *testing.T, model, dir string) int64 {
	t.Helper()
	var out bytes.Buffer
	if code := stoker(t, &out, "pull", model, "--store", dir, "--progress", "none", "-o", "json"); code != 0 {
		t.Fatalf("pull ends with %d: %s", code, out.String())
	}
	text := out.String()
	var result struct{ DownloadedBytes int64 }
	if err := json.Unmarshal([]byte(text[strings.Index(text, "{"):]), &result); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return result.DownloadedBytes
}

// pulled is a model in a store on a disk that may fail.
func pulled(t *testing.T) (d *disk, s *store.Store, m store.Manifest) {
	t.Helper()
	d = &disk{}
	dir := filepath.Join(mount(t, t.TempDir(), faults{disk: d}), "store")
	pull(t, source(t, nil), dir)
	s, err := store.Open(dir)
	if err == nil {
		m, err = s.Lookup("tiny")
	}
	if err == nil {
		err = s.Check(t.Context(), m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d, s, m
}

func weights(m store.Manifest) store.ManifestFile {
	for _, f := range m.Files {
		if f.Path == "model.safetensors" {
			return f
		}
	}
	return store.ManifestFile{}
}

// What the disk cannot read any more is as bad as what is wrong, when the scrub
// comes upon it and when a pull does: it is fetched again, and nothing else.
func TestUnreadableBlob(t *testing.T) {
	t.Parallel()
	for name, find := range map[string]func(t *testing.T, s *store.Store, f store.ManifestFile){
		"by the scrub": func(t *testing.T, s *store.Store, f store.ManifestFile) {
			t.Helper()
			_, err := s.Scrub(t.Context(), store.ScrubPoint{SHA256: f.SHA256})
			if !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrUnverified) || !strings.Contains(err.Error(), "input/output error") {
				t.Errorf("scrub: %v", err)
			}
		},
		"by reading it into memory": func(t *testing.T, s *store.Store, f store.ManifestFile) {
			t.Helper()
			w, err := s.Warm(t.Context(), f.SHA256, 0)
			if !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrUnverified) || !strings.Contains(err.Error(), "input/output error") {
				t.Errorf("warm: %+v, %v", w, err)
			}
		},
		"by a pull": func(t *testing.T, s *store.Store, f store.ManifestFile) {
			t.Helper()
			if err := os.Remove(s.AgentFile("verified/" + f.SHA256 + ".json")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, s, m := pulled(t)
			f := weights(m)
			d.spoil(t, s.BlobPath(f.SHA256))
			if err := s.Check(t.Context(), m); err != nil {
				t.Errorf("Check, before anybody has read it: %v", err)
			}
			find(t, s, f)
			if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("Check: %v", err)
			}
			if n := pull(t, m.Source, s.Dir()); n != f.Size {
				t.Errorf("downloaded %d bytes", n)
			}
			var out bytes.Buffer
			if code := stoker(t, &out, "verify", "--store", s.Dir()); code != 0 {
				t.Errorf("verify ends with %d: %s", code, out.String())
			}
			m, err := s.Lookup("tiny")
			if err == nil {
				err = s.Check(t.Context(), m)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// stoker verify says it, too, and takes the model out.
func TestVerifyOfUnreadableBlob(t *testing.T) {
	t.Parallel()
	d, s, m := pulled(t)
	f := weights(m)
	d.spoil(t, s.BlobPath(f.SHA256))
	var out bytes.Buffer
	if code := stoker(t, &out, "verify", "--store", s.Dir()); code != 4 || !strings.Contains(out.String(), "input/output error") {
		t.Errorf("verify ends with %d: %s", code, out.String())
	}
	if n := pull(t, m.Source, s.Dir()); n != f.Size {
		t.Errorf("downloaded %d bytes", n)
	}
}

// A disk that reads nothing at all says nothing about a blob, whatever it answers: it
// is broken, or a file server exports it no longer.
func TestDeadDisk(t *testing.T) {
	t.Parallel()
	for _, failure := range []fuse.Status{fuse.EIO, fuse.EACCES, fuse.EPERM} {
		t.Run(failure.String(), func(t *testing.T) {
			t.Parallel()
			d, s, m := pulled(t)
			f := weights(m)
			d.die(failure)
			if _, err := s.Scrub(t.Context(), store.ScrubPoint{SHA256: f.SHA256}); err == nil || errors.Is(err, store.ErrCorrupt) {
				t.Errorf("scrub: %v", err)
			}
			if _, err := s.Resident(t.Context(), f.SHA256); errors.Is(err, store.ErrCorrupt) {
				t.Errorf("resident: %v", err)
			}
			if _, err := s.Warm(t.Context(), f.SHA256, 0); errors.Is(err, store.ErrCorrupt) {
				t.Errorf("warm: %v", err)
			}
			d.die(fuse.OK)
			if err := s.Check(t.Context(), m); err != nil {
				t.Errorf("Check: %v", err)
			}
			if p, err := s.Scrub(t.Context(), store.ScrubPoint{SHA256: f.SHA256}); err != nil || !p.Done {
				t.Errorf("scrub: %+v, %v", p, err)
			}
		})
	}
}
