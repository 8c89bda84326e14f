package fetcher

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stoker-project/stoker/fetcher/store"
)

func openTestPartial(t *testing.T, dir string, size int64) *store.Partial {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	g, err := s.Stage(t.Context(), "m", nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := g.OpenPartial(t.Context(), strings.Repeat("ab", 32), "content", size, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func newTestInOrder(t *testing.T, file File, p *store.Partial, drop bool) *inOrder {
	t.Helper()
	o, err := newInOrder(file, p, drop, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// pieces cuts size bytes into spans of random lengths.
func pieces(r *rand.Rand, size, longest int64) []store.Span {
	var spans []store.Span
	for at := int64(0); at < size; {
		n := min(1+r.Int64N(longest), size-at)
		spans = append(spans, store.Span{From: at, To: at + n})
		at += n
	}
	return spans
}

// Whatever the order in which parts are written, by however many at once, and
// wherever it is taken up again, the hashes are those of the file.
func TestInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, 3<<20+17)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // never fails
	size := int64(len(content))
	want := sha256.Sum256(content)
	digest := Digest("crc64nvme:" + strings.Repeat("0", 16))
	stated := digest.newHash(size)
	_, _ = stated.Write(content) // a hash never fails
	for name, shuffle := range map[string]func([]store.Span){
		"from the front": func([]store.Span) {},
		"from the back": func(s []store.Span) {
			for i, j := 0, len(s)-1; i < j; i, j = i+1, j-1 {
				s[i], s[j] = s[j], s[i]
			}
		},
		"in any order": func(s []store.Span) { r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] }) },
	} {
		for _, writers := range []int{1, 2, 8} {
			t.Run(name+", "+strings.Repeat("w", writers), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "store")
				file := File{Path: "x", Size: size, Digest: digest}
				spans := pieces(r, size, 100_000)
				shuffle(spans)
				for stop := false; !stop; {
					// Some of it, then as after a kill: closed without a word.
					part := min(len(spans), 1+r.IntN(40))
					stop = part == len(spans)
					p := openTestPartial(t, dir, size)
					o := newTestInOrder(t, file, p, false)
					writeAll(t, o, p, content, spans[:part], writers)
					spans = spans[part:]
					if r.IntN(2) == 0 {
						hashed, states, err := o.states()
						if err == nil {
							err = p.Checkpoint(hashed, states)
						}
						if err != nil {
							t.Fatal(err)
						}
					}
					if stop {
						sum, other, err := o.wait(t.Context())
						if err != nil || hex.EncodeToString(sum) != hex.EncodeToString(want[:]) || string(other.Sum(nil)) != string(stated.Sum(nil)) {
							t.Errorf("sha256 %x, want %x, the other %x, want %x, %v", sum, want, other.Sum(nil), stated.Sum(nil), err)
						}
					}
					o.stop()
					if err := p.Close(); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

func writeAll(t *testing.T, o *inOrder, p *store.Partial, content []byte, spans []store.Span, writers int) {
	t.Helper()
	work := make(chan store.Span)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for s := range work {
				b := content[s.From:s.To]
				if _, err := p.WriteAt(b, s.From); err != nil {
					t.Error(err)
				}
				o.wrote(b, s.From)
			}
		})
	}
	for _, s := range spans {
		work <- s
	}
	close(work)
	wg.Wait()
}

// What is not there yet is not taken for hashed.
func TestInOrderIncomplete(t *testing.T) {
	p := openTestPartial(t, filepath.Join(t.TempDir(), "store"), 100)
	o := newTestInOrder(t, File{Path: "x", Size: 100}, p, false)
	if _, err := p.WriteAt(make([]byte, 50), 50); err != nil {
		t.Fatal(err)
	}
	o.wrote(make([]byte, 50), 50)
	if sum, _, err := o.wait(t.Context()); err == nil || o.front() != 0 {
		t.Errorf("the sum of a half file is %x, front %d", sum, o.front())
	}
}

// States of other hashes, or none, cost the transfer, not the truth: no digest is
// left of what they were about.
func TestInOrderWithForeignStates(t *testing.T) {
	for name, states := range map[string][][]byte{"none": nil, "too many": {nil, nil, nil}, "garbage": {[]byte("x")}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			content := []byte(strings.Repeat("abc", 1000))
			p := openTestPartial(t, dir, 3000)
			_, err := p.WriteAt(content[:1000], 0)
			if err == nil {
				_, err = p.WriteAt(content[1000:2000], 1000)
			}
			if err == nil {
				err = p.Checkpoint(1000, states)
			}
			if err == nil {
				err = p.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			p = openTestPartial(t, dir, 3000)
			o := newTestInOrder(t, File{Path: "x", Size: 3000}, p, false)
			if p.Front() > 0 || o.front() > 0 {
				t.Errorf("%d bytes count, %d are hashed", p.Front(), o.front())
			}
			if _, err := p.WriteAt(content, 0); err != nil {
				t.Fatal(err)
			}
			o.wrote(content, 0)
			want := sha256.Sum256(content)
			if sum, _, err := o.wait(t.Context()); err != nil || string(sum) != string(want[:]) {
				t.Errorf("%x, %v", sum, err)
			}
		})
	}
}

// Dropping what is hashed from the page cache changes nothing of it.
func TestInOrderDropsPages(t *testing.T) {
	content := make([]byte, 5*dropBytes+12345)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(content) // never fails
	size := int64(len(content))
	p := openTestPartial(t, filepath.Join(t.TempDir(), "store"), size)
	o := newTestInOrder(t, File{Path: "x", Size: size}, p, true)
	writeAll(t, o, p, content, pieces(rand.New(rand.NewPCG(3, 4)), size, 2<<20), 4)
	want := sha256.Sum256(content)
	if sum, _, err := o.wait(t.Context()); err != nil || string(sum) != string(want[:]) {
		t.Errorf("%x, %v", sum, err)
	}
	if !o.drop || o.dropped != 4*dropBytes {
		t.Errorf("%d bytes left the page cache", o.dropped)
	}
}
