package fetchertest

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/crc64nvme"

	"github.com/stoker-project/stoker/fetcher"
)

// Fixture is a source that a driver is tested on. Knobs that a kind of source
// cannot have are nil, and their tests are skipped.
type Fixture struct {
	Driver fetcher.Driver
	// Source holds exactly the files that Setup was given.
	Source fetcher.Source
	// Missing are sources that are not there: another repository, another
	// revision.
	Missing []fetcher.Source
	// Digests says that the source vouches for every file: in its listing, or
	// where the driver is a fetcher.Voucher, when asked.
	Digests bool
	// AtRevision returns the source pinned to a revision that List returned.
	AtRevision func(revision string) fetcher.Source
	// Change gives a file other content under the same source.
	Change func(t *testing.T, path string, content []byte)
	// ChangedWhileReading says that after Change a transfer of the old
	// revision fails, because the source keeps only the newest.
	ChangedWhileReading bool
	// KeepsOld says that after Change the old revision can still be opened.
	KeepsOld bool
	// Spoil makes every transfer of path have a wrong byte at this offset,
	// until the function that it returns is called.
	Spoil func(t *testing.T, path string, at int64) (heal func())
	// Connects says that the driver reads over HTTP: ranges that are read one after
	// the other share a connection.
	Connects bool
	// Cut makes the next transfer of path break off after n bytes of body.
	Cut func(t *testing.T, path string, n int64)
	// Stall makes the next transfer of path stop after n bytes, for ever.
	Stall func(t *testing.T, path string, n int64)
	// Fail makes the next transfer of path fail as kind; throttled with a wait
	// of at least a second.
	Fail func(t *testing.T, path string, kind error)
	// Secrets are texts that no error may contain.
	Secrets []string
}

// Setup makes a source of files by path. It is called for each test of the
// suite, and cleans up with t.
type Setup func(t *testing.T, files map[string][]byte) Fixture

// TestDriver tests a driver against the contract of [fetcher.Driver]. What the
// kind of source cannot do, by the nil fields of its fixture, is not tested.
func TestDriver(t *testing.T, setup Setup) {
	t.Helper()
	always := true
	can := setup(t, suiteFiles())
	for _, c := range []struct {
		name    string
		run     func(*suite)
		applies bool
	}{
		{"list", testList, always},
		{"list missing", testListMissing, always},
		{"list is stable", testListStable, always},
		{"list a pinned revision", testListPinned, can.AtRevision != nil},
		{"list after a change", testListChanged, can.Change != nil},
		{"vouch for what changed", testVouchChanged, can.Change != nil && vouches(can)},
		{"vouch with an ended context", testVouchEnded, vouches(can)},
		{"list with an ended context", testListEnded, always},
		{"resolve", testResolve, resolves(can)},
		{"resolve missing", testResolveMissing, resolves(can)},
		{"list concurrently", testListConcurrent, always},
		{"open ranges", testOpenRanges, always},
		{"open outside the file", testOpenOutside, always},
		{"open range after range", testOpenKeeps, can.Connects},
		{"open a missing file", testOpenMissing, always},
		{"open concurrently", testOpenConcurrent, always},
		{"open with an ended context", testOpenEnded, always},
		{"close early", testCloseEarly, always},
		{"read after the context ended", testReadEnded, always},
		{"read what is cut", testReadCut, can.Cut != nil},
		{"read what stalls", testReadStall, can.Stall != nil},
		{"read what changed", testReadChanged, can.Change != nil},
		{"kinds of failures", testFailKinds, can.Fail != nil},
	} {
		if !c.applies {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			files := suiteFiles()
			c.run(&suite{t: t, Fixture: setup(t, files), files: files})
		})
	}
}

// suite is one test, its fixture, and what its source should hold.
type suite struct {
	t *testing.T
	Fixture
	files map[string][]byte
}

// Files of the suite that tests name.
const (
	bigFile   = "weights/model.safetensors"
	smallFile = "config.json"
	emptyFile = "empty.txt"
)

// suiteFiles covers sizes, depths and names that sources get wrong.
func suiteFiles() map[string][]byte {
	big := make([]byte, 1<<20+4321)
	for i := range big {
		big[i] = byte(i*7 + i>>8*13 + i>>16)
	}
	return map[string][]byte{
		bigFile:                   big,
		smallFile:                 []byte(`{"model_type": "llama"}` + "\n"),
		emptyFile:                 {},
		"a/b/c/d/deep.json":       []byte("deep"),
		"spaces and + & # ?.txt":  []byte("odd characters"),
		"100%25.txt":              []byte("a percent sign"),
		"größe/重み.json":           []byte("not ASCII"),
		"second.bin":              bytes.Repeat([]byte{0xff, 0}, 4096),
		".gitattributes":          []byte("hidden"),
		"tokenizer/chat.v1.jinja": []byte("{{ messages }}"),
	}
}

func (s *suite) list(t *testing.T) fetcher.Listing {
	t.Helper()
	l, err := s.Driver.List(t.Context(), s.Source)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return l
}

// object lists and returns one file, ready to open.
func (s *suite) object(t *testing.T, path string) fetcher.Object {
	t.Helper()
	l := s.list(t)
	i := slices.IndexFunc(l.Files, func(f fetcher.File) bool { return f.Path == path })
	if i < 0 {
		t.Fatalf("List has no %s", path)
	}
	return fetcher.Object{Source: s.Source, Revision: l.Revision, File: l.Files[i]}
}

// open opens the whole file, and fails the test if that fails.
func (s *suite) open(ctx context.Context, t *testing.T, obj fetcher.Object) io.ReadCloser {
	t.Helper()
	body, err := s.Driver.Open(ctx, obj, 0, obj.File.Size)
	if err != nil {
		t.Fatalf("Open %s: %v", obj.File.Path, err)
	}
	return body
}

// wantKind checks that err is a failure of exactly one kind, fit to be shown.
func (s *suite) wantKind(t *testing.T, err, kind error) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that is %q", kind)
	}
	var e *fetcher.Error
	if !errors.As(err, &e) {
		t.Fatalf("error is no *fetcher.Error: %v", err)
	}
	for _, k := range []error{fetcher.ErrTransient, fetcher.ErrThrottled, fetcher.ErrRefused, fetcher.ErrCorrupt, fetcher.ErrNoSpace} {
		if got := errors.Is(err, k); got != errors.Is(kind, k) {
			t.Errorf("errors.Is(%q) is %v for: %v", k, got, err)
		}
	}
	if e.Op == "" || e.Origin == "" || e.Err == nil {
		t.Errorf("error lacks op, origin or cause: %+v", e)
	}
	if errors.Is(kind, fetcher.ErrRefused) && e.Hint == "" {
		t.Errorf("a refusal without a hint: %v", err)
	}
	s.checkText(t, err)
}

// wantEnded checks that err is ctx's own.
func (s *suite) wantEnded(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v, want one that wraps context.Canceled", err)
	}
	s.checkText(t, err)
}

func (s *suite) checkText(t *testing.T, err error) {
	t.Helper()
	for _, secret := range s.Secrets {
		if strings.Contains(err.Error(), secret) || strings.Contains(fmt.Sprintf("%+v", err), secret) {
			t.Error("an error shows a secret") // without showing it here
		}
	}
}

func testList(s *suite) {
	t := s.t
	l := s.list(t)
	if !regexp.MustCompile(`^[A-Za-z0-9._-]+$`).MatchString(l.Revision) {
		t.Errorf("revision %q is no folder name", l.Revision)
	}
	got := map[string]bool{}
	for _, f := range l.Files {
		want, ok := s.files[f.Path]
		if !ok || got[f.Path] {
			t.Errorf("unexpected or repeated file %q", f.Path)
			continue
		}
		got[f.Path] = true
		if v, ok := s.Driver.(fetcher.Voucher); ok && f.Digest == "" {
			var err error
			if f.Digest, err = v.Vouch(t.Context(), fetcher.Object{Source: s.Source, Revision: l.Revision, File: f}); err != nil {
				t.Errorf("%s: vouch: %v", f.Path, err)
			}
		}
		if f.Size != int64(len(want)) {
			t.Errorf("%s: size %d, want %d", f.Path, f.Size, len(want))
		}
		s.checkDigest(t, f, want)
	}
	for path := range s.files {
		if !got[path] {
			t.Errorf("%q is not listed", path)
		}
	}
}

func (s *suite) checkDigest(t *testing.T, f fetcher.File, content []byte) {
	t.Helper()
	if err := f.Digest.Check(); err != nil {
		t.Errorf("%s: %v", f.Path, err)
		return
	}
	c := Bytes(content)
	var want string
	var err error
	switch f.Digest.Algorithm() {
	case fetcher.SHA256:
		want, err = c.SHA256()
	case fetcher.GitBlob:
		want, err = c.GitBlob()
	case fetcher.CRC64NVME:
		want = hexOf(crc64nvme.New(), content)
	case fetcher.CRC32C:
		want = hexOf(crc32.New(crc32.MakeTable(crc32.Castagnoli)), content)
	case fetcher.CRC32:
		want = hexOf(crc32.NewIEEE(), content)
	case fetcher.MD5:
		want = hexOf(md5.New(), content)
	default:
		if s.Digests {
			t.Errorf("%s has no digest", f.Path)
		}
	}
	if err != nil || f.Digest.Hex() != want {
		t.Errorf("%s: digest %s, want %s (%v)", f.Path, f.Digest, want, err)
	}
}

func hexOf(h hash.Hash, content []byte) string {
	h.Write(content)
	return hex.EncodeToString(h.Sum(nil))
}

func testListMissing(s *suite) {
	t := s.t
	if len(s.Missing) == 0 {
		t.Fatal("the fixture names no missing source")
	}
	for _, src := range s.Missing {
		l, err := s.Driver.List(t.Context(), src)
		s.wantKind(t, err, fetcher.ErrRefused)
		if len(l.Files) > 0 {
			t.Errorf("%s: files beside an error", src)
		}
		if !strings.Contains(err.Error(), src.Path) {
			t.Errorf("the error does not name %s: %v", src, err)
		}
	}
}

func testListStable(s *suite) {
	t := s.t
	if a, b := s.list(t), s.list(t); a.Revision != b.Revision {
		t.Errorf("revisions %s and %s without a change", a.Revision, b.Revision)
	}
}

func testListPinned(s *suite) {
	t := s.t
	l := s.list(t)
	pinned, err := s.Driver.List(t.Context(), s.AtRevision(l.Revision))
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	if pinned.Revision != l.Revision || len(pinned.Files) != len(l.Files) {
		t.Errorf("pinned: %s with %d files, want %s with %d", pinned.Revision, len(pinned.Files), l.Revision, len(l.Files))
	}
}

func testListChanged(s *suite) {
	t := s.t
	before := s.list(t)
	s.Change(t, smallFile, []byte("other content"))
	if after := s.list(t); after.Revision == before.Revision {
		t.Errorf("revision is %s before and after a change", before.Revision)
	}
}

func testListEnded(s *suite) {
	t := s.t
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Driver.List(ctx, s.Source)
	s.wantEnded(t, err)
}

func testListConcurrent(s *suite) {
	t := s.t
	want := s.list(t)
	inParallel(t, 8, func() error {
		l, err := s.Driver.List(t.Context(), s.Source)
		if err == nil && (l.Revision != want.Revision || len(l.Files) != len(want.Files)) {
			err = fmt.Errorf("revision %s with %d files", l.Revision, len(l.Files))
		}
		return err
	})
}

// inParallel runs f n times at once and reports every error.
func inParallel(t *testing.T, n int, f func() error) {
	t.Helper()
	errs := make(chan error, n)
	for range n {
		go func() { errs <- f() }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// deadline is how long something may take that should be over at once.
const deadline = 20 * time.Second
