package store

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const partialSize = 1000

var partialID = strings.Repeat("ab", 32)

func staging(t *testing.T) *Staging {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := s.Stage(t.Context(), "tiny", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func openPartial(t *testing.T, g *Staging) *Partial {
	t.Helper()
	p, err := g.OpenPartial(t.Context(), partialID, "content", partialSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// interrupted leaves a transfer with 100 bytes behind the last checkpoint and
// 50 after it, as a kill does.
func interrupted(t *testing.T, g *Staging) {
	t.Helper()
	p := openPartial(t, g)
	_, err := p.Write([]byte(strings.Repeat("a", 100)))
	if err == nil {
		err = p.Checkpoint([][]byte{[]byte("state")})
	}
	if err == nil {
		_, err = p.Write([]byte(strings.Repeat("b", 50)))
	}
	if err == nil {
		err = p.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func journalFile(g *Staging) string {
	return filepath.Join(g.store.dir, "partial", partialID+".json")
}

func readJournal(t *testing.T, g *Staging) Journal {
	t.Helper()
	var j Journal
	if err := readJSON(journalFile(g), &j); err != nil {
		t.Fatal(err)
	}
	return j
}

func TestPartialResumes(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	p := openPartial(t, g)
	if p.Written != 150 || p.Journal.Offset != 100 || string(p.Journal.Hashes[0]) != "state" || p.Waited {
		t.Errorf("resumed at %d, journal %+v", p.Written, p.Journal)
	}
	b := make([]byte, 200)
	if n, err := p.ReadAt(b, 0); n != 150 || !errors.Is(err, io.EOF) || string(b[:n]) != strings.Repeat("a", 100)+strings.Repeat("b", 50) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if text, err := os.ReadFile(journalFile(g)); err != nil || strings.Contains(string(text), "://") {
		t.Errorf("the journal holds a URL: %s, %v", text, err)
	}
}

// In another boot only what was synced counts, and from then on what is written
// is of this boot.
func TestPartialAfterAPowerCut(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	j := readJournal(t, g)
	if j.Boot == "" {
		t.Skip("SKIPPED, this kernel names no boot")
	}
	j.Boot = "another"
	if err := writeJSON(journalFile(g), j, true); err != nil {
		t.Fatal(err)
	}
	p := openPartial(t, g)
	if info, err := p.file.Stat(); err != nil || info.Size() != 100 || p.Written != 100 {
		t.Errorf("%d bytes left, written %d, %v", info.Size(), p.Written, err)
	}
	if now := readJournal(t, g); now.Boot != bootID() || now.Offset != 100 || string(now.Hashes[0]) != "state" {
		t.Errorf("journal %+v", now)
	}
	if _, err := p.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil { // a kill now
		t.Fatal(err)
	}
	if p = openPartial(t, g); p.Written != 104 {
		t.Errorf("after the kill %d bytes count, 104 were written", p.Written)
	}
}

func TestPartialWithDamagedJournal(t *testing.T) {
	for name, spoil := range map[string]func(j *Journal) string{
		"no JSON":                func(*Journal) string { return "{" },
		"empty":                  func(*Journal) string { return "" },
		"zeros":                  func(*Journal) string { return strings.Repeat("\x00", 100) },
		"null":                   func(*Journal) string { return "null" },
		"other types":            func(*Journal) string { return `{"offset":"x"}` },
		"about other content":    func(j *Journal) string { j.Content = "other"; return "" },
		"about another size":     func(j *Journal) string { j.Size++; return "" },
		"of another format":      func(j *Journal) string { j.FormatVersion++; return "" },
		"more than there is":     func(j *Journal) string { j.Offset = 151; return "" },
		"negative":               func(j *Journal) string { j.Offset = -1; return "" },
		"more than there can be": func(j *Journal) string { j.Offset = 1 << 62; return "" },
	} {
		t.Run(name, func(t *testing.T) {
			g := staging(t)
			interrupted(t, g)
			j := readJournal(t, g)
			text := spoil(&j)
			if text == "" && name != "empty" {
				b, err := json.Marshal(j)
				if err != nil {
					t.Fatal(err)
				}
				text = string(b)
			}
			if err := os.WriteFile(journalFile(g), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			p := openPartial(t, g)
			if info, err := p.file.Stat(); err != nil || info.Size() != 0 || p.Written != 0 || p.Journal.Offset != 0 {
				t.Errorf("%d bytes left, written %d, journal %+v, %v", info.Size(), p.Written, p.Journal, err)
			}
			if now := readJournal(t, g); now.Content != "content" || now.Offset != 0 || now.Boot != bootID() {
				t.Errorf("journal %+v", now)
			}
		})
	}
}

func TestPartialLongerThanItsContent(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	if err := os.Truncate(filepath.Join(g.store.dir, "partial", partialID), partialSize+1); err != nil {
		t.Fatal(err)
	}
	if p := openPartial(t, g); p.Written != 0 {
		t.Errorf("resumed at %d", p.Written)
	}
}

// A journal whose file is gone is about nothing.
func TestPartialWithoutFile(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	if err := os.Remove(filepath.Join(g.store.dir, "partial", partialID)); err != nil {
		t.Fatal(err)
	}
	if p := openPartial(t, g); p.Written != 0 || p.Journal.Offset != 0 {
		t.Errorf("resumed at %d", p.Written)
	}
}

func TestPartialReset(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	p := openPartial(t, g)
	if err := p.Reset(); err != nil || p.Written != 0 || p.Journal.Offset != 0 || p.Journal.Hashes != nil {
		t.Errorf("%+v, %v", p, err)
	}
	if j := readJournal(t, g); j.Offset != 0 || len(j.Hashes) != 0 {
		t.Errorf("journal %+v", j)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p = openPartial(t, g); p.Written != 0 {
		t.Errorf("resumed at %d", p.Written)
	}
}

// Of two that want one content, the second gets it when the first is done, and
// hears that it waited.
func TestPartialIsOnesAtATime(t *testing.T) {
	for name, end := range map[string]func(p *Partial, g *Staging) error{
		"let go":   func(p *Partial, _ *Staging) error { return p.Close() },
		"dropped":  func(p *Partial, _ *Staging) error { return p.Discard() },
		"admitted": func(p *Partial, g *Staging) error { return g.Admit(context.Background(), p, partialID, "key") },
	} {
		t.Run(name, func(t *testing.T) {
			g := staging(t)
			first := openPartial(t, g)
			opened := make(chan *Partial)
			go func() {
				p, err := g.OpenPartial(t.Context(), partialID, "content", partialSize)
				if err != nil {
					t.Error(err)
				}
				opened <- p
			}()
			select {
			case <-opened:
				t.Fatal("two have it at once")
			case <-time.After(3 * lockPoll):
			}
			if err := end(first, g); err != nil {
				t.Fatal(err)
			}
			second := <-opened
			if !second.Waited {
				t.Error("it did not hear that it waited")
			}
			if same, err := sameFile(second.file, second.path); err != nil || !same {
				t.Errorf("its file is not the one with the name: %v", err)
			}
			if err := second.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPartialWaitEnds(t *testing.T) {
	g := staging(t)
	openPartial(t, g)
	ctx, cancel := context.WithTimeout(t.Context(), 2*lockPoll)
	defer cancel()
	if _, err := g.OpenPartial(ctx, partialID, "content", partialSize); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
	if _, err := g.OpenPartial(t.Context(), "../../escaped", "content", 1); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a hostile id: %v", err)
	}
}

// A reservation that fails gives back what it took, and loses nothing.
func TestPartialReserveFails(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	p := openPartial(t, g)
	if err := p.reserve(1 << 60); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("reserved 2^60 bytes: %v", err)
	}
	if info, err := p.file.Stat(); err != nil || info.Size() != 150 || diskBytes(info) > 1<<20 {
		t.Errorf("%d bytes, %d on disk, %v", info.Size(), diskBytes(info), err)
	}
}

// A full disk takes a part of a line; what is appended then is a line of its
// own.
func TestPlanIsCutAtALine(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	sum := hex.EncodeToString(make([]byte, 32))
	if err := os.WriteFile(s.planPath("tiny"), []byte(sum+" bucket@r1/model.safetensors\n"+sum+" bucket@r1/model"), 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := s.Stage(t.Context(), "tiny", nil)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("1", 64)
	if err := g.Keep(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.planPath("tiny"))
	if err != nil || string(text) != sum+" bucket@r1/model.safetensors\n"+other+"\n" {
		t.Errorf("the plan is %q, %v", text, err)
	}
	if finished, err := g.Finished(); err != nil || len(finished) != 1 {
		t.Errorf("finished %q, %v", finished, err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

// No text in a manifest's place may pass for a manifest, or break anything.
func FuzzManifest(f *testing.F) {
	good := `{"formatVersion":1,"name":"m","source":"hf://a/b","revision":"r","bytes":1,"publishedAt":"2026-01-01T00:00:00Z","files":[{"path":"x","size":1,"sha256":"` + strings.Repeat("a", 64) + `"}]}`
	for _, text := range []string{
		good, "", "{", "null", "[]", "\x00\x00", good[:50], strings.Replace(good, `"x"`, `"../x"`, 1), strings.Replace(good, `"r"`, `"../r"`, 1),
		strings.Replace(good, `"size":1`, `"size":-1`, 1), strings.Replace(good, `"bytes":1`, `"bytes":1e30`, 1), strings.Replace(good, `:1,"name"`, `:2,"name"`, 1),
		strings.Replace(good, "aaa", "../", 1),
	} {
		f.Add([]byte(text))
	}
	s, err := Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	if err := s.makeDir(s.manifestDir("m")); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(s.manifestPath("m", "r"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := s.Manifest("m", "r")
		if err == nil {
			for _, file := range m.Files {
				if CheckPath(file.Path) != nil || checkSHA256(file.SHA256) != nil || file.Size < 0 {
					t.Errorf("%q passes as %+v", text, file)
				}
			}
			if m.Name != "m" || m.Revision != "r" || len(m.Files) == 0 {
				t.Errorf("%q passes as %+v", text, m)
			}
		} else if !errors.Is(err, ErrCorrupt) && !errors.Is(err, errNewer) {
			t.Errorf("%q: %v", text, err)
		}
		if all, err := s.Published(); err != nil || len(all) > 1 {
			t.Errorf("%q: published %v, %v", text, all, err)
		}
	})
}

// Whatever stands in a journal, a transfer is opened, and what it takes for
// written is there.
func FuzzJournal(f *testing.F) {
	hash, ok := sha256.New().(encoding.BinaryMarshaler)
	if !ok {
		f.Fatal("sha256 has no state to save")
	}
	state, err := hash.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(Journal{FormatVersion: 1, Content: "content", Size: partialSize, Offset: 10, Hashes: [][]byte{state}, Boot: bootID()})
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{string(good), "", "{", "null", strings.Replace(string(good), ":10", ":-1", 1), strings.Replace(string(good), ":10", ":99999999999", 1)} {
		f.Add([]byte(text), 20)
	}
	s, err := Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	g, err := s.Stage(f.Context(), "tiny", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = g.Close() }) // the test is over
	path := filepath.Join(s.dir, "partial", partialID)
	f.Fuzz(func(t *testing.T, text []byte, length int) {
		if err := os.WriteFile(path, make([]byte, min(max(length, 0), 2*partialSize)), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".json", text, 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := g.OpenPartial(t.Context(), partialID, "content", partialSize)
		if err != nil {
			t.Fatal(err)
		}
		info, err := p.file.Stat()
		if err != nil || p.Written != info.Size() || p.Journal.Offset > p.Written || p.Journal.Offset < 0 || p.Written > partialSize {
			t.Errorf("%q: written %d of %d, journal %+v, %v", text, p.Written, info.Size(), p.Journal, err)
		}
		if err := p.Discard(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzPlan(f *testing.F) {
	f.Add([]byte(strings.Repeat("a", 64) + " key\n"))
	f.Add([]byte("\x00\n\n \n"))
	path := filepath.Join(f.TempDir(), "plan")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		err := readPlan(path, func(sum, key string) {
			if checkSHA256(sum) != nil || strings.Contains(key, "\n") {
				t.Errorf("%q names %q with key %q", text, sum, key)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func FuzzCheckPath(f *testing.F) {
	for _, p := range []string{"a/b", "../x", "/x", "a//b", `a\b`, "a\x00", "é/重み", strings.Repeat("a/", 600)} {
		f.Add(p)
	}
	base := f.TempDir()
	f.Fuzz(func(t *testing.T, p string) {
		if CheckPath(p) != nil {
			return
		}
		full := filepath.Join(base, filepath.FromSlash(p))
		if rel, err := filepath.Rel(base, full); err != nil || rel != p || rel == ".." || strings.HasPrefix(rel, "../") {
			t.Errorf("%q lands at %q", p, full)
		}
		if err := os.MkdirAll(full, 0o755); err != nil {
			t.Errorf("%q cannot be a file name: %v", p, err)
		}
	})
}
