package fetcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
)

const mib = 1 << 20

// link is a source of one file, and perhaps small ones, behind a link whose rates are known exactly: its
// tests run in the time of a synctest bubble.
type link struct {
	content []byte
	small   int // files of one KiB
	// rate is what the connection gets, in bytes per second, given which one it
	// is, from 0 on, and how many are open.
	rate func(connection, open int) float64
	// latency is how long each answer takes.
	latency time.Duration
	// other, if not nil, is what comes where all of the file is asked for.
	other []byte
	// refuse, if not nil, may answer a request with an error, and take its time.
	refuse func(request int, offset, length int64) error

	mu       sync.Mutex
	requests []linkRequest
	open     int
	most     int
	sent     int64
}

type linkRequest struct {
	path           string
	offset, length int64
	at             time.Time
}

func (l *link) List(context.Context, fetcher.Source) (fetcher.Listing, error) {
	files := []fetcher.File{{Path: "model.safetensors", Size: int64(len(l.content))}}
	for i := range l.small {
		files = append(files, fetcher.File{Path: fmt.Sprintf("%d.json", i), Size: 1 << 10})
	}
	return fetcher.Listing{Revision: "r1", Files: files}, nil
}

func (l *link) Open(ctx context.Context, obj fetcher.Object, offset, length int64) (io.ReadCloser, error) {
	l.mu.Lock()
	number := len(l.requests)
	l.requests = append(l.requests, linkRequest{obj.File.Path, offset, length, time.Now()})
	l.mu.Unlock()
	if l.refuse != nil {
		if err := l.refuse(number, offset, length); err != nil {
			return nil, err
		}
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(l.latency):
	}
	content := l.content
	if l.other != nil && length == int64(len(content)) {
		content = l.other
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open++
	l.most = max(l.most, l.open)
	return &linkBody{ctx: ctx, link: l, number: number, left: content[offset : offset+length]}, nil
}

type linkBody struct {
	ctx    context.Context //nolint:containedctx // the reader lives as long as the ctx of Open, by contract
	link   *link
	number int
	left   []byte
}

// Read gives a 64th of a MiB when its time has come.
func (b *linkBody) Read(p []byte) (int, error) {
	if len(b.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), mib/64)], b.left)
	b.link.mu.Lock()
	rate := b.link.rate(b.number, b.link.open)
	b.link.mu.Unlock()
	timer := time.NewTimer(time.Duration(float64(n) / rate * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	case <-timer.C:
	}
	b.left = b.left[n:]
	b.link.mu.Lock()
	b.link.sent += int64(n)
	b.link.mu.Unlock()
	return n, nil
}

func (b *linkBody) Close() error {
	b.link.mu.Lock()
	b.link.open--
	b.link.mu.Unlock()
	return nil
}

// perConnection is a link that gives every connection the same rate.
func perConnection(rate float64) func(int, int) float64 {
	return func(int, int) float64 { return rate }
}

// shared is a link that divides its rate between its connections.
func shared(rate float64) func(int, int) float64 {
	return func(_, open int) float64 { return rate / float64(open) }
}

// pull pulls over the link into dir and returns how long it took.
func (l *link) pull(ctx context.Context, dir string, change func(*fetcher.Options)) (fetcher.Result, time.Duration, error) {
	s, err := store.Open(dir)
	if err != nil {
		return fetcher.Result{}, 0, err
	}
	o := fetcher.Options{
		Store: s, Logger: slog.New(slog.DiscardHandler), Admit: alwaysAdmit,
		Drivers: fetcher.Drivers{fetcher.SchemeS3: func(fetcher.Access) (fetcher.Driver, error) { return l, nil }},
	}
	if change != nil {
		change(&o)
	}
	begin := time.Now()
	res, err := fetcher.New(o).Pull(ctx, memoryRequest("m"))
	return res, time.Since(begin), err
}

// mustPull pulls and compares every byte.
func (l *link) mustPull(t *testing.T, change func(*fetcher.Options)) (fetcher.Result, time.Duration) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	res, took, err := l.pull(t.Context(), dir, change)
	if err != nil {
		t.Fatal(err)
	}
	checkModel(t, res.Path, fetchertest.Tree{"model.safetensors": fetchertest.Bytes(l.content)})
	if l.open != 0 {
		t.Errorf("%d bodies are still open", l.open)
	}
	return res, took
}

// Where each connection has a rate of its own, a file comes over as many as are
// allowed, and almost nothing of it twice.
func TestOneFileOverManyConnections(t *testing.T) {
	for _, jobs := range []int{1, 2, 8, 16} {
		t.Run(itoa(jobs), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &link{content: random(1, 80*mib), rate: perConnection(mib)}
				res, took := l.mustPull(t, func(o *fetcher.Options) { o.Jobs = jobs })
				ideal := time.Duration(80/jobs) * time.Second
				if took > ideal*5/4+3*time.Second || took < ideal {
					t.Errorf("took %s over %d connections, ideal is %s", took, jobs, ideal)
				}
				if l.most > jobs {
					t.Errorf("%d connections at once, %d are allowed", l.most, jobs)
				}
				if extra := l.sent - int64(len(l.content)); extra < 0 || extra > 4*mib {
					t.Errorf("%d bytes were sent in vain", extra)
				}
				if res.DownloadedBytes != int64(len(l.content)) {
					t.Errorf("downloaded %d bytes", res.DownloadedBytes)
				}
			})
		})
	}
}

// Where more connections bring nothing, they are not kept.
func TestNoMoreConnectionsThanHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 96*mib), rate: shared(4 * mib)}
		_, took := l.mustPull(t, func(o *fetcher.Options) { o.Jobs = 64 })
		if l.most > 16 {
			t.Errorf("%d connections at once; 4 fill the link", l.most)
		}
		if ideal := 24 * time.Second; took > ideal+ideal/10 {
			t.Errorf("took %s, ideal is %s", took, ideal)
		}
		if len(l.requests) > 40 {
			t.Errorf("%d requests", len(l.requests))
		}
	})
}

// Small files come beside the large one: neither waits for the other.
func TestSmallFilesBesideLargeOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 40*mib), small: 60, rate: perConnection(mib)}
		begin := time.Now()
		_, _, err := l.pull(t.Context(), filepath.Join(t.TempDir(), "store"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(l.requests) < 61 {
			t.Fatalf("%d requests", len(l.requests))
		}
		first := map[string]time.Duration{}
		for _, r := range l.requests {
			if at, ok := first[r.path]; !ok || r.at.Sub(begin) < at {
				first[r.path] = r.at.Sub(begin)
			}
		}
		for path, at := range first {
			if at > time.Second {
				t.Errorf("%s was asked for after %s", path, at)
			}
		}
		if at := first["model.safetensors"]; at > 100*time.Millisecond {
			t.Errorf("the large file was asked for after %s", at)
		}
	})
}

// A connection that crawls holds nobody up: the others take its work.
func TestSlowConnectionIsRelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 64*mib), rate: func(connection, _ int) float64 {
			if connection == 0 { // which has the file's front
				return mib / 32
			}
			return 2 * mib
		}}
		_, took := l.mustPull(t, func(o *fetcher.Options) { o.Jobs = 4 })
		// Three bring 6 MiB/s. The slow one's buffer and the divisions of its
		// range, each of which has to be worth it, come after.
		if took > 30*time.Second {
			t.Errorf("took %s; over three connections it would be 11 s", took)
		}
	})
}

// A connection that brings nothing any more is left to its own, long before it
// counts as stalled.
func TestStalledConnectionIsRelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pieces := 0
		l := &link{content: random(1, 64*mib), rate: func(connection, _ int) float64 {
			if connection == 1 {
				if pieces++; pieces > 100 {
					return 0.001
				}
			}
			return 2 * mib
		}}
		_, took := l.mustPull(t, func(o *fetcher.Options) { o.Jobs, o.StallTimeout = 4, time.Hour })
		if took > 2*time.Minute {
			t.Errorf("took %s; over three connections it would be 11 s", took)
		}
	})
}

// A source whose first byte takes long is waited for: nobody else takes a range
// that has not begun.
func TestLatencyIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 8*mib), rate: perConnection(4 * mib)}
		l.refuse = func(int, int64, int64) error {
			<-time.After(10 * time.Second)
			return nil
		}
		l.mustPull(t, nil)
		if len(l.requests) > 8 {
			t.Errorf("%d requests", len(l.requests))
		}
	})
}

// A source that is dead is given up, however many connections there are.
func TestDeadSourceIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 64*mib)}
		l.refuse = func(int, int64, int64) error {
			return &fetcher.Error{Kind: fetcher.ErrTransient, Op: "open", Err: errors.New("connection refused")}
		}
		_, took, err := l.pull(t.Context(), filepath.Join(t.TempDir(), "store"), nil)
		if !errors.Is(err, fetcher.ErrTransient) || took > time.Minute || len(l.requests) > 40 {
			t.Errorf("after %s and %d requests: %v", took, len(l.requests), err)
		}
	})
}

// A server that says when to come again, busy or broken, is asked by no
// connection before.
func TestRetryAfterHoldsEveryConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 64*mib), rate: perConnection(2 * mib)}
		var told time.Time
		l.refuse = func(request int, _, _ int64) error {
			if request != 2 {
				return nil
			}
			told = time.Now()
			return &fetcher.Error{Kind: fetcher.ErrTransient, Op: "open", Err: errors.New("503"), RetryAfter: time.Minute}
		}
		l.mustPull(t, nil)
		for _, r := range l.requests {
			if after := r.at.Sub(told); after > 0 && after < time.Minute {
				t.Errorf("asked again after %s", after)
			}
		}
	})
}

// What is here and hashed is not written over with what comes again because the
// source gives no ranges any more.
func TestWholeFileLeavesAloneWhatIsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 40*mib), rate: perConnection(64 * mib)}
		l.other = append([]byte(nil), l.content...)
		l.other[36*mib] ^= 1 // in the second range, which came before
		l.refuse = func(_ int, offset, length int64) error {
			if offset == 0 && length < int64(len(l.content)) {
				return &fetcher.Error{Kind: fetcher.ErrTransient, Op: "open", Err: fetcher.ErrNoRanges}
			}
			return nil
		}
		l.mustPull(t, nil)
	})
}

// No byte for 30 s is a stall, and a connection that crawls is none.
func TestStall(t *testing.T) {
	for name, c := range map[string]struct {
		rate     float64 // of the first connection
		requests int
		second   time.Duration // when it is sent, about
	}{
		"nothing comes":         {0.001, 2, 30 * time.Second},
		"a piece in 29 seconds": {mib / 64 / 29., 1, 0},
		"a piece in 31 seconds": {mib / 64 / 31., 2, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &link{content: random(1, mib), rate: func(connection, _ int) float64 {
					if connection == 0 {
						return c.rate
					}
					return mib
				}}
				begin := time.Now()
				l.mustPull(t, func(o *fetcher.Options) { o.Jobs = 1 })
				if len(l.requests) != c.requests {
					t.Fatalf("%d requests, want %d", len(l.requests), c.requests)
				}
				if c.requests == 2 {
					if at := l.requests[1].at.Sub(begin); at < c.second || at > c.second+time.Second {
						t.Errorf("the second request was sent after %s, want %s", at, c.second)
					}
				}
			})
		})
	}
}

// What was brought over many connections before an interruption is not brought
// again.
func TestResumeOfRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 64*mib), rate: perConnection(3 * mib)}
		dir := filepath.Join(t.TempDir(), "store")
		var downloaded int64
		for i := 0; ; i++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(900+150*i)*time.Millisecond)
			res, _, err := l.pull(ctx, dir, nil)
			cancel()
			if err == nil {
				downloaded = l.sent
				checkModel(t, res.Path, fetchertest.Tree{"model.safetensors": fetchertest.Bytes(l.content)})
				break
			}
			if !errors.Is(err, context.DeadlineExceeded) || i > 20 {
				t.Fatalf("pull %d ends with %v", i, err)
			}
			checkStore(t, dir)
		}
		if downloaded != int64(len(l.content)) {
			t.Errorf("%d bytes came for %d", downloaded, len(l.content))
		}
	})
}

// A server that knows no ranges, or forgets that it does, costs time but not the
// model.
func TestSourceWithoutRanges(t *testing.T) {
	noRanges := &fetcher.Error{Kind: fetcher.ErrTransient, Op: "open", Err: fmt.Errorf("200: %w", fetcher.ErrNoRanges)}
	for name, c := range map[string]struct {
		refuse func(request int, offset, length, size int64) error
		extra  int64 // bytes that come in vain
	}{
		"never any": {func(_ int, offset, length, size int64) error {
			if offset > 0 || length < size {
				return noRanges
			}
			return nil
		}, 0},
		"only the first part": {func(_ int, offset, _, _ int64) error {
			if offset > 0 {
				return noRanges
			}
			return nil
		}, 33 * mib},
		"not once": {func(request int, _, _, _ int64) error {
			if request == 1 {
				return noRanges
			}
			return nil
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				size := int64(48 * mib)
				l := &link{content: random(1, int(size)), rate: perConnection(4 * mib)}
				l.refuse = func(request int, offset, length int64) error { return c.refuse(request, offset, length, size) }
				l.mustPull(t, nil)
				if l.sent > size+c.extra {
					t.Errorf("%d bytes were sent for %d", l.sent, size)
				}
			})
		})
	}
}

// A source that asks for patience is not asked by any connection before, and by
// fewer after.
func TestThrottledConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 64*mib), rate: perConnection(2 * mib)}
		var told time.Time
		l.refuse = func(request int, _, _ int64) error {
			if request != 5 {
				return nil
			}
			told = time.Now()
			return &fetcher.Error{Kind: fetcher.ErrThrottled, Op: "open", Err: errors.New("too many requests"), RetryAfter: 40 * time.Second}
		}
		l.mustPull(t, nil)
		for i, r := range l.requests[6:] {
			// Those sent at the same moment could not know.
			if r.at.After(told) && r.at.Before(told.Add(40*time.Second)) {
				t.Errorf("request %d came %s after the source had asked for 40 s", 6+i, r.at.Sub(told))
			}
		}
	})
}

// MaxRate holds for all connections together.
func TestMaxRateOverManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 64*mib), rate: perConnection(64 * mib)}
		_, took := l.mustPull(t, func(o *fetcher.Options) { o.MaxRate = 4 * mib })
		if took < 15*time.Second || took > 20*time.Second {
			t.Errorf("64 MiB at 4 MiB/s took %s", took)
		}
	})
}
