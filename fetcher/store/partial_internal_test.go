package store

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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
	p, err := g.OpenPartial(t.Context(), partialID, "content", partialSize, nil)
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

// interrupted leaves a transfer as a kill does: 100 bytes from the front, of which
// 90 are hashed, and 50 from 300 on are behind the last checkpoint, 50 more in
// either place after it.
func interrupted(t *testing.T, g *Staging) {
	t.Helper()
	p := openPartial(t, g)
	write(t, p, 300, strings.Repeat("c", 50))
	write(t, p, 0, strings.Repeat("a", 90))
	write(t, p, 90, strings.Repeat("a", 10))
	if err := p.Checkpoint(90, [][]byte{[]byte("state")}); err != nil {
		t.Fatal(err)
	}
	write(t, p, 100, strings.Repeat("b", 50))
	write(t, p, 350, strings.Repeat("d", 50))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, p *Partial, at int64, text string) {
	t.Helper()
	if n, err := p.WriteAt([]byte(text), at); n != len(text) || err != nil {
		t.Fatal(n, err)
	}
}

func journalFile(g *Staging) string {
	return filepath.Join(g.store.dir, "partial", partialID+".json")
}

func mustReadJournal(t *testing.T, g *Staging) (journal, []piece) {
	t.Helper()
	j, since, err := g.store.readJournal(journalFile(g), partialSize)
	if err != nil {
		t.Fatal(err)
	}
	return j, since
}

// replaceJournal writes a journal with a right checksum.
func replaceJournal(t *testing.T, g *Staging, j journal, lines ...string) {
	t.Helper()
	line, err := j.line()
	if err == nil {
		err = os.WriteFile(journalFile(g), []byte(string(line)+strings.Join(lines, "")), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPartialResumes(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	for range 2 { // nothing is lost by opening and closing either
		p := openPartial(t, g)
		if !slices.Equal(p.Written(), Spans{{0, 150}, {300, 400}}) || p.Front() != 150 || p.Hashed != 90 || string(p.Hashes[0]) != "state" || p.Waited {
			t.Errorf("resumed %+v", p)
		}
		for at, want := range map[int64]string{90: strings.Repeat("a", 10), 100: strings.Repeat("b", 50), 300: strings.Repeat("c", 50), 350: strings.Repeat("d", 50)} {
			b := make([]byte, PieceSize)
			if n, err := p.ReadBack(b, at); err != nil || string(b[:n]) != want {
				t.Errorf("read at %d: %q, %v", at, b[:n], err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(journalFile(g)); err != nil || strings.Contains(string(text), "://") {
		t.Errorf("the journal holds a URL: %s, %v", text, err)
	}
}

// What was not synced counts as far as its bytes are still there, whatever took
// them: a power cut, a file server, write-back that failed after a kill.
func TestPartialAfterUnsyncedBytesWereLost(t *testing.T) {
	zeros := func(n int) []byte { return make([]byte, n) }
	for name, tc := range map[string]struct {
		lose func(f *os.File) error
		want Spans
	}{
		"nothing":             {func(*os.File) error { return nil }, Spans{{0, 150}, {300, 400}}},
		"a whole piece":       {func(f *os.File) error { _, err := f.WriteAt(zeros(50), 100); return err }, Spans{{0, 100}, {300, 400}}},
		"a byte of one":       {func(f *os.File) error { _, err := f.WriteAt(zeros(1), 399); return err }, Spans{{0, 150}, {300, 350}}},
		"everything":          {func(f *os.File) error { _, err := f.WriteAt(zeros(300), 100); return err }, Spans{{0, 100}, {300, 350}}},
		"the end of the file": {func(f *os.File) error { return f.Truncate(399) }, Spans{{0, 150}, {300, 350}}},
	} {
		t.Run(name, func(t *testing.T) {
			g := staging(t)
			interrupted(t, g)
			f, err := os.OpenFile(filepath.Join(g.store.dir, "partial", partialID), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(tc.lose(f), f.Close()); err != nil {
				t.Fatal(err)
			}
			p := openPartial(t, g)
			if !slices.Equal(p.Written(), tc.want) || p.Hashed != 90 {
				t.Errorf("resumed %+v, want %v", p, tc.want)
			}
			if now, _ := mustReadJournal(t, g); !slices.Equal(now.Synced, Spans{{0, 100}, {300, 350}}) || now.Hashed != 90 || string(now.Hashes[0]) != "state" {
				t.Errorf("journal %+v", now)
			}
			if tc.want.Front() == 100 {
				write(t, p, 100, "more")
				if err := p.Close(); err != nil { // a kill now
					t.Fatal(err)
				}
				if p = openPartial(t, g); p.Front() != 104 {
					t.Errorf("after the kill %d bytes count, 104 were written", p.Front())
				}
			}
		})
	}
}

// What was synced is believed when the transfer is gone on with, and compared when
// it is read back.
func TestPartialAfterSyncedBytesWereLost(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	p := openPartial(t, g)
	if _, err := p.file.WriteAt(make([]byte, 20), 310); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, PieceSize)
	if _, err := p.ReadBack(b, 300); !errors.Is(err, ErrLost) || !errors.Is(err, ErrCorrupt) {
		t.Errorf("what was lost is read back: %v", err)
	}
	if _, err := p.ReadBack(b, 350); err != nil {
		t.Error(err)
	}
	if _, err := p.ReadBack(b, 310); err == nil || errors.Is(err, ErrLost) {
		t.Errorf("read back from the middle of a piece: %v", err)
	}
}

func TestPartialWithDamagedJournal(t *testing.T) {
	for name, spoil := range map[string]func(j *journal, text string) string{
		"no JSON":                   func(*journal, string) string { return "{" },
		"empty":                     func(*journal, string) string { return "" },
		"zeros":                     func(*journal, string) string { return strings.Repeat("\x00", 100) },
		"null":                      func(*journal, string) string { return "null" },
		"other types":               func(*journal, string) string { return `{"synced":"x"}` },
		"a state that changed":      func(_ *journal, text string) string { return strings.Replace(text, "c3RhdGU=", "c3RhdWU=", 1) },
		"a span that changed":       func(_ *journal, text string) string { return strings.Replace(text, "[300,350]", "[300,390]", 1) },
		"without its check":         func(_ *journal, text string) string { return strings.Replace(text, `"check":"`, `"other":"`, 1) },
		"about other content":       func(j *journal, _ string) string { j.Content = "other"; return "?" },
		"about another size":        func(j *journal, _ string) string { j.Size++; return "?" },
		"of another format":         func(j *journal, _ string) string { j.FormatVersion++; return "?" },
		"more than there is":        func(j *journal, _ string) string { j.Synced = Spans{{0, 401}}; return "?" },
		"more hashed than is there": func(j *journal, _ string) string { j.Hashed = 101; return "?" },
		"without a piece":           func(j *journal, _ string) string { j.Pieces = j.Pieces[1:]; return "?" },
		"a piece twice":             func(j *journal, _ string) string { j.Pieces = append(j.Pieces, j.Pieces[0]); return "?" },
		"a piece that is too long":  func(j *journal, _ string) string { j.Pieces[0].To += PieceSize; return "?" },
		"negative":                  func(j *journal, _ string) string { j.Synced = Spans{{-1, 100}}; return "?" },
		"hashed negative":           func(j *journal, _ string) string { j.Hashed = -1; return "?" },
		"unsorted":                  func(j *journal, _ string) string { j.Synced = Spans{{300, 350}, {0, 100}}; return "?" },
		"more than there can be":    func(j *journal, _ string) string { j.Synced = Spans{{0, 1 << 62}}; return "?" },
	} {
		t.Run(name, func(t *testing.T) {
			g := staging(t)
			interrupted(t, g)
			j, _ := mustReadJournal(t, g)
			before, err := os.ReadFile(journalFile(g))
			if err != nil {
				t.Fatal(err)
			}
			text := spoil(&j, string(before))
			if text == "?" {
				replaceJournal(t, g, j)
			} else if err := os.WriteFile(journalFile(g), []byte(text), 0o644); err != nil || text == string(before) {
				t.Fatal(err)
			}
			p := openPartial(t, g)
			if info, err := p.file.Stat(); err != nil || info.Size() != 0 || len(p.Written()) > 0 || p.Hashed != 0 {
				t.Errorf("%d bytes left, %+v, %v", info.Size(), p, err)
			}
			if now, since := mustReadJournal(t, g); now.Content != "content" || len(now.Synced) > 0 || len(since) > 0 {
				t.Errorf("journal %+v, %v", now, since)
			}
		})
	}
}

// Of the pieces after the checkpoint, those before the first damaged line count.
func TestPartialWithDamagedLine(t *testing.T) {
	line := func(at int64, text string) string { return string(piecesOf([]byte(text), at)[0].appendLine(nil)) }
	good, bad := line(100, strings.Repeat("b", 50)), line(350, strings.Repeat("d", 50))
	moved := func(from, to int64) string {
		c := piecesOf([]byte(strings.Repeat("d", 50)), 350)[0]
		c.Span = Span{from, to}
		return string(c.appendLine(nil))
	}
	for name, line := range map[string]string{
		"cut":              strings.TrimSuffix(bad, "\n"),
		"an end changed":   strings.Replace(bad, "400", "401", 1),
		"no JSON":          "[\n",
		"empty":            "\n",
		"zeros":            strings.Repeat("\x00", 20) + "\n",
		"negative":         moved(-1, 400),
		"the wrong way":    moved(400, 350),
		"behind the end":   moved(350, partialSize+1),
		"spaces":           strings.Replace(bad, ",", ", ", 1),
		"a fifth number":   "[350,400,1,2,3]\n",
		"something behind": strings.Replace(bad, "]", "]]", 1),
		"what is hashed":   moved(50, 100),
	} {
		t.Run(name, func(t *testing.T) {
			g := staging(t)
			interrupted(t, g)
			j, _ := mustReadJournal(t, g)
			replaceJournal(t, g, j, good, line, moved(200, 250))
			if p := openPartial(t, g); !slices.Equal(p.Written(), Spans{{0, 150}, {300, 350}}) {
				t.Errorf("written %v", p.Written())
			}
		})
	}
}

// The kernel tells of bytes that the disk did not take once, and to one caller:
// from then on nothing of them counts.
func TestPartialAfterAWriteBackError(t *testing.T) {
	g := staging(t)
	p := openPartial(t, g)
	write(t, p, 0, strings.Repeat("a", 90))
	write(t, p, 90, strings.Repeat("a", 10))
	if err := p.Checkpoint(90, [][]byte{[]byte("state")}); err != nil {
		t.Fatal(err)
	}
	write(t, p, 100, strings.Repeat("b", 50))
	if err := p.fail(syscall.EIO); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if !slices.Equal(p.Written(), Spans{{0, 100}}) {
		t.Errorf("written %v", p.Written())
	}
	_, writeErr := p.WriteAt([]byte("c"), 150)
	for name, err := range map[string]error{
		"write": writeErr, "sync": p.Sync(), "checkpoint": p.Checkpoint(0, nil), "admit": g.Admit(t.Context(), p, partialID, "key"), "drop": p.DropCache(Span{0, 50}),
	} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s afterwards: %v", name, err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p = openPartial(t, g); !slices.Equal(p.Written(), Spans{{0, 100}}) || p.Hashed != 90 {
		t.Errorf("resumed %+v", p)
	}
}

// What lies between the spans of two checkpoints is in the second's.
func TestPartialCheckpoints(t *testing.T) {
	g := staging(t)
	p := openPartial(t, g)
	for at := range int64(10) {
		write(t, p, at*100, strings.Repeat("x", 50))
		if at%3 == 2 {
			if err := p.Checkpoint(0, nil); err != nil {
				t.Fatal(err)
			}
		}
		j, since := mustReadJournal(t, g)
		for _, c := range since {
			j.Synced = j.Synced.Add(c.Span)
		}
		if !slices.Equal(j.Synced, p.Written()) || len(j.Synced) != int(at)+1 || len(since) != int(at+1)%3 {
			t.Fatalf("after %d spans the journal has %v, of which %v since; written %v", at+1, j.Synced, since, p.Written())
		}
	}
}

func TestPartialLongerThanItsContent(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	if err := os.Truncate(filepath.Join(g.store.dir, "partial", partialID), partialSize+1); err != nil {
		t.Fatal(err)
	}
	if p := openPartial(t, g); len(p.Written()) > 0 {
		t.Errorf("resumed with %v", p.Written())
	}
}

// A journal whose file is gone is about nothing.
func TestPartialWithoutFile(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	if err := os.Remove(filepath.Join(g.store.dir, "partial", partialID)); err != nil {
		t.Fatal(err)
	}
	if p := openPartial(t, g); len(p.Written()) > 0 || p.Hashed != 0 {
		t.Errorf("resumed %+v", p)
	}
}

func TestPartialReset(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	p := openPartial(t, g)
	if err := p.Reset(); err != nil || len(p.Written()) > 0 || p.Hashed != 0 || p.Hashes != nil {
		t.Errorf("%+v, %v", p, err)
	}
	if j, since := mustReadJournal(t, g); len(j.Synced) > 0 || len(j.Hashes) > 0 || len(since) > 0 {
		t.Errorf("journal %+v, %v", j, since)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p = openPartial(t, g); len(p.Written()) > 0 {
		t.Errorf("resumed with %v", p.Written())
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
				p, err := g.OpenPartial(t.Context(), partialID, "content", partialSize, nil)
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
	if _, err := g.OpenPartial(ctx, partialID, "content", partialSize, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
	if _, err := g.OpenPartial(t.Context(), "../../escaped", "content", 1, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a hostile id: %v", err)
	}
}

// A reservation that fails gives back what it took, and loses nothing.
func TestPartialReserveFails(t *testing.T) {
	g := staging(t)
	interrupted(t, g)
	p := openPartial(t, g)
	p.size = 1 << 60
	if err := p.reserve(); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("reserved 2^60 bytes: %v", err)
	}
	if info, err := p.file.Stat(); err != nil || info.Size() != 400 || diskBytes(info) > 1<<20 {
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
	good, err := journal{
		FormatVersion: journalVersion, Content: "content", Size: partialSize,
		Synced: Spans{{0, 10}, {15, 20}}, Hashed: 10, Hashes: [][]byte{state}, Pieces: piecesOf(make([]byte, 5), 15),
	}.line()
	if err != nil {
		f.Fatal(err)
	}
	line := func(n int, at int64) string { return string(piecesOf(make([]byte, n), at)[0].appendLine(nil)) }
	for _, text := range []string{
		string(good), "", "{", "null", strings.Replace(string(good), ":10", ":-1", 1),
		string(good) + line(5, 10), string(good) + line(5, 10)[:5], string(good) + line(984, 15),
	} {
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
		p, err := g.OpenPartial(t.Context(), partialID, "content", partialSize, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := p.file.Stat()
		if err != nil || !p.Written().check(min(info.Size(), partialSize)) || p.Hashed > p.Front() || p.Hashed < 0 {
			t.Errorf("%q: %d bytes, %+v, %v", text, info.Size(), p, err)
		}
		if _, _, err := g.store.readJournal(path+".json", partialSize); err != nil {
			t.Errorf("%q: the journal afterwards: %v", text, err)
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
		err := (&Store{dir: filepath.Dir(path)}).readPlan(path, func(sum, key string) {
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
