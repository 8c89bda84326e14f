package fetchertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// TestPull pulls from a driver's source into a store, as a user would: afresh and
// again, another revision, stopped in the middle, with a wrong byte, and with the
// source changing under the transfer. It needs the knobs Change, Stall and Cut of
// the fixture, and Spoil where the source vouches for its files.
func TestPull(t *testing.T, setup Setup) {
	t.Helper()
	always := true
	can := setup(t, suiteFiles())
	for _, c := range []struct {
		name    string
		run     func(*pulling)
		applies bool
	}{
		{"pull, and again", testPull, always},
		{"pull another revision", testPullRevision, always},
		{"resume", testPullResumes, always},
		{"pull wrong bytes", testPullCorrupt, can.Digests},
		{"pull what changes", testPullChanged, always},
	} {
		if !c.applies {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			files := suiteFiles()
			// Weights of several buffers, so that there is a middle.
			files[bigFile] = bytes.Repeat(files[bigFile], 5)
			c.run(&pulling{
				suite: suite{t: t, Fixture: setup(t, files), files: files},
				dir:   filepath.Join(t.TempDir(), "store"),
			})
		})
	}
}

// pulling is one test of pulls, and the store that is pulled into.
type pulling struct {
	suite
	dir string
}

const pullName = "suite"

func (p *pulling) pull(ctx context.Context, d fetcher.Driver, progress func(fetcher.Progress)) (fetcher.Result, error) {
	p.t.Helper()
	s, err := store.Open(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	f := fetcher.New(fetcher.Options{
		Store: s, Logger: slog.New(slog.DiscardHandler), StallTimeout: deadline / 2,
		Drivers: fetcher.Drivers{p.Source.Scheme: func(fetcher.Access) (fetcher.Driver, error) { return d, nil }},
	})
	return f.Pull(ctx, fetcher.Request{Name: pullName, Source: p.Source, Progress: progress, Include: []string{"*"}})
}

func (p *pulling) mustPull() fetcher.Result {
	p.t.Helper()
	res, err := p.pull(p.t.Context(), p.Driver, nil)
	if err != nil {
		p.t.Fatalf("Pull: %v", err)
	}
	p.checkModel(res)
	return res
}

// checkModel holds what is published against what the source should hold.
func (p *pulling) checkModel(res fetcher.Result) {
	t := p.t
	t.Helper()
	for path, want := range p.files {
		if got, err := os.ReadFile(filepath.Join(res.Path, path)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has other bytes than the source, or none (%v)", path, err)
		}
	}
	m, err := p.manifest()
	if err != nil || len(m.Files) != len(p.files) || m.Revision != res.Revision {
		t.Errorf("published: revision %s with %d files, %v; want %s with %d", m.Revision, len(m.Files), err, res.Revision, len(p.files))
	}
	for _, f := range m.Files {
		if p.Digests && f.VouchedBy == "" {
			t.Errorf("nothing vouches for %s", f.Path)
		}
	}
}

func (p *pulling) manifest() (store.Manifest, error) {
	p.t.Helper()
	s, err := store.OpenReadOnly(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	return s.Lookup(pullName)
}

// wantNothing checks that nothing is published.
func (p *pulling) wantNothing() {
	p.t.Helper()
	if m, err := p.manifest(); !errors.Is(err, store.ErrNotFound) {
		p.t.Errorf("revision %s is published, %v", m.Revision, err)
	}
}

func testPull(p *pulling) {
	first := p.mustPull()
	if again := p.mustPull(); again.DownloadedBytes != 0 || again.Revision != first.Revision {
		p.t.Errorf("downloaded %d bytes of revision %s again", again.DownloadedBytes, again.Revision)
	}
}

// Another revision costs what is different in it.
func testPullRevision(p *pulling) {
	first := p.mustPull()
	p.files[smallFile] = []byte("other content")
	p.Change(p.t, smallFile, p.files[smallFile])
	second := p.mustPull()
	if second.Revision == first.Revision || second.DownloadedBytes != int64(len(p.files[smallFile])) {
		p.t.Errorf("downloaded %d bytes of revision %s after %s", second.DownloadedBytes, second.Revision, first.Revision)
	}
}

// lostAtMost is what a stopped connection may have to fetch again.
const lostAtMost = 2 << 20

func testPullResumes(p *pulling) {
	t := p.t
	const front = 4 << 20
	p.Stall(t, bigFile, front)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	_, err := p.pull(ctx, p.Driver, func(now fetcher.Progress) {
		if now.BytesDone >= front {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("the stopped pull ends with %v", err)
	}
	p.wantNothing()
	total := int64(0)
	for _, content := range p.files {
		total += int64(len(content))
	}
	if res := p.mustPull(); res.DownloadedBytes > total-front+lostAtMost {
		t.Errorf("%d bytes were downloaded after %d of %d had come", res.DownloadedBytes, front, total)
	}
}

func testPullCorrupt(p *pulling) {
	t := p.t
	heal := p.Spoil(t, bigFile, 3<<20+5)
	_, err := p.pull(t.Context(), p.Driver, nil)
	heal()
	p.wantKind(t, err, fetcher.ErrCorrupt)
	if !strings.Contains(err.Error(), bigFile) {
		t.Errorf("the error does not name the file: %v", err)
	}
	p.wantNothing()
	p.mustPull()
}

// changing changes a file before the second time that it is opened.
type changing struct {
	fetcher.Driver
	change func()
	opened atomic.Int32
}

// Open implements fetcher.Driver.
func (c *changing) Open(ctx context.Context, obj fetcher.Object, offset, length int64) (io.ReadCloser, error) {
	if obj.File.Path == bigFile && c.opened.Add(1) == 2 {
		c.change()
	}
	return c.Driver.Open(ctx, obj, offset, length)
}

// Never a mix: the front of one content and the back of its successor. Where the
// source keeps the old revision, it is pulled to its end.
func testPullChanged(p *pulling) {
	t := p.t
	successor := bytes.Clone(p.files[bigFile])
	successor[len(successor)-1]++
	p.Cut(t, bigFile, 3<<20)
	d := &changing{Driver: p.Driver, change: func() { p.Change(t, bigFile, successor) }}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	res, err := p.pull(ctx, d, nil)
	if p.KeepsOld {
		if err != nil {
			t.Fatalf("Pull: %v", err)
		}
		p.Digests = false // a wrapped driver vouches for nothing of its own
		p.checkModel(res)
		return
	}
	p.wantKind(t, err, fetcher.ErrRefused)
	if !strings.Contains(err.Error(), bigFile) {
		t.Errorf("the error does not name the file: %v", err)
	}
	p.wantNothing()
	p.files[bigFile] = successor
	p.mustPull()
}
