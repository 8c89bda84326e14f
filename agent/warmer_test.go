package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher/headroom"
	"github.com/stoker-project/stoker/fetcher/store"
)

// fakeCache is content of which some is in memory.
type fakeCache struct {
	dir string

	mu       sync.Mutex
	size     map[string]int64
	resident map[string]int64 // from the front of each
	errs     map[string]error
	most     int64 // of one content, that stays; 0: all of it
	measures int
	reads    []scrubRead
	hang     chan struct{}
}

func (f *fakeCache) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeCache) wait() {
	f.mu.Lock()
	hang := f.hang
	f.mu.Unlock()
	if hang != nil {
		<-hang
	}
}

func (f *fakeCache) Resident(ctx context.Context, sum string) (int64, error) {
	f.wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measures++
	return f.resident[sum], errors.Join(ctx.Err(), f.errs[sum])
}

func (f *fakeCache) Warm(ctx context.Context, sum string, off int64) (store.Warmed, error) {
	f.wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(ctx.Err(), f.errs[sum]); err != nil {
		return store.Warmed{Next: off}, err
	}
	w := store.Warmed{Next: min(off+store.WarmPiece, f.size[sum])}
	w.Done = w.Next == f.size[sum]
	if f.resident[sum] >= w.Next {
		return w, nil
	}
	w.Read = w.Next - off
	w.Cold = store.Reading{Bytes: w.Read, Took: time.Millisecond}
	f.resident[sum] = w.Next
	if f.most > 0 {
		f.resident[sum] = min(f.most, w.Next)
	}
	f.reads = append(f.reads, scrubRead{sum, w.Read, time.Now()})
	return w, nil
}

func (f *fakeCache) total() (n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.reads {
		n += r.bytes
	}
	return n
}

type warmBench struct {
	*testing.T
	fake  *fakeCache
	w     *warmer
	found int
	wakes int
	busy  bool
	down  bool
}

const warmEvery = 15 * time.Second

func newWarmBench(t *testing.T, rate int64) *warmBench {
	t.Helper()
	b := &warmBench{T: t, fake: &fakeCache{dir: t.TempDir(), size: map[string]int64{}, resident: map[string]int64{}, errs: map[string]error{}}}
	get := func(v *bool) func() bool {
		return func() bool {
			b.fake.mu.Lock()
			defer b.fake.mu.Unlock()
			return *v
		}
	}
	up := get(&b.down)
	b.w = newWarmer(
		b.fake, func() bool { return !up() }, get(&b.busy),
		func(context.Context) { b.fake.set(func() { b.found++ }) }, func() { b.fake.set(func() { b.wakes++ }) }, slog.New(slog.DiscardHandler),
	)
	speeds := t.TempDir() + "/" + speedFile
	b.w.speed = &speedometer{file: speeds, write: func(data []byte) error { return os.WriteFile(speeds, data, 0o644) }, logger: slog.New(slog.DiscardHandler)}
	b.w.headroom = func() (headroom.State, error) {
		return headroom.State{Total: 1 << 40, Available: 1 << 39, Limit: headroom.None}, nil
	}
	b.w.configure(RAMConfig{Rate: rate}, warmEvery)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.w.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return b
}

// model makes a model of files of 64 MiB.
func (b *warmBench) model(name string, files int) ramTarget {
	m := store.Manifest{Name: name, Revision: commit}
	for i := range files {
		s := fmt.Sprintf("%s-%d", name, i)
		m.Files = append(m.Files, store.ManifestFile{Path: s, SHA256: s, Size: 64 * mib})
		b.fake.set(func() { b.fake.size[s] = 64 * mib })
	}
	return ramTarget{Manifest: m, Read: true}
}

// warmTally is what was counted so far.
type warmTally struct{ measures, found, wakes int }

func (b *warmBench) counted() (c warmTally, reads []scrubRead) {
	b.fake.mu.Lock()
	defer b.fake.mu.Unlock()
	return warmTally{b.fake.measures, b.found, b.wakes}, slices.Clone(b.fake.reads)
}

func (b *warmBench) share(name string) float64 { return b.w.seen().Resident[name].share() }

// pass lets time go by until all that is due was done.
func (b *warmBench) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestWarmer(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"reads in order, at the rate":        testWarmerRate,
		"reads what is missing only":         testWarmerMissing,
		"reads again what has left":          testWarmerAgain,
		"gives up what does not stay, again": testWarmerLeaves,
		"measures what it does not read":     testWarmerMeasures,
		"tells an error, and goes on":        testWarmerErrors,
		"hangs alone":                        testWarmerHangs,
		"rests while the store is not known": testWarmerRests,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { synctest.Test(t, test) })
	}
}

func testWarmerRate(t *testing.T) {
	b := newWarmBench(t, 16*mib)
	first, second := b.model("first", 2), b.model("second", 1)
	began := time.Now()
	b.w.want([]ramTarget{first, second})
	b.pass(6 * time.Second)
	// A piece of 16 MiB each second, the first one at once.
	if got := b.fake.total(); got < 80*mib || got > 112*mib {
		t.Errorf("%d MiB in 6 s at 16 MiB/s", got/mib)
	}
	b.fake.set(func() { b.busy = true })
	before := b.fake.total()
	b.pass(8 * time.Second)
	if got := b.fake.total() - before; got < 16*mib || got > 48*mib {
		t.Errorf("%d MiB in 8 s beside a pull", got/mib)
	}
	b.fake.set(func() { b.busy = false })
	b.pass(time.Minute)
	if b.share("first") != 1 || b.share("second") != 1 {
		t.Errorf("after %s %.2f and %.2f are there", time.Since(began), b.share("first"), b.share("second"))
	}
	var order []string
	all, reads := b.counted()
	for _, r := range reads {
		if len(order) == 0 || order[len(order)-1] != r.sum {
			order = append(order, r.sum)
		}
	}
	if want := []string{"first-0", "first-1", "second-0"}; !slices.Equal(order, want) {
		t.Errorf("read in the order %v", order)
	}
	if b.w.speed.now().Rate < 1000*mib {
		t.Errorf("the disk was measured as %+v", b.w.speed.now())
	}
	// All is there: it is measured, and not read.
	b.pass(10 * warmEvery)
	then, more := b.counted()
	if n := then.measures - all.measures; len(more) != len(reads) || n < 3*9 || n > 3*11 {
		t.Errorf("in ten intervals it read %d times and measured %d times", len(more)-len(reads), n)
	}
}

func testWarmerMissing(t *testing.T) {
	b := newWarmBench(t, 1<<30)
	m := b.model("m", 4)
	b.fake.set(func() { b.fake.resident["m-0"], b.fake.resident["m-2"] = 64*mib, 20*mib })
	b.w.want([]ramTarget{m})
	b.pass(5 * time.Second)
	if got := b.fake.total(); got != (64+48+64)*mib || b.share("m") != 1 {
		t.Errorf("read %d MiB, %.2f is there", got/mib, b.share("m"))
	}
	// 98% is enough.
	b.fake.set(func() { b.fake.resident["m-3"] = 60 * mib })
	b.pass(2 * warmEvery)
	if got := b.fake.total(); got != (64+48+64)*mib {
		t.Errorf("read again: %d MiB", got/mib)
	}
}

func testWarmerAgain(t *testing.T) {
	b := newWarmBench(t, 1<<30)
	b.w.want([]ramTarget{b.model("m", 2)})
	b.pass(time.Hour)
	before := b.fake.total()
	asleep, _ := b.counted()
	b.fake.set(func() { b.fake.resident["m-1"] = 0 })
	b.pass(warmEvery + time.Second)
	if c, _ := b.counted(); c.wakes == asleep.wakes {
		t.Error("the loop was not woken")
	}
	b.pass(warmEvery)
	if got := b.fake.total() - before; got != 64*mib || b.share("m") != 1 {
		t.Errorf("read %d MiB again, %.2f is there", got/mib, b.share("m"))
	}
}

func testWarmerLeaves(t *testing.T) {
	b := newWarmBench(t, 1<<30)
	b.fake.set(func() { b.fake.most = 32 * mib })
	b.w.want([]ramTarget{b.model("m", 2)})
	b.pass(10 * time.Second)
	if r := b.w.seen().Resident["m"]; r.share() != 0.5 || !r.Leaves {
		t.Errorf("after a pass %+v", r)
	}
	b.pass(24 * time.Hour)
	passes := 0
	_, reads := b.counted()
	for _, r := range reads {
		if r.sum == "m-1" && r.bytes > 0 {
			passes++
		}
	}
	passes /= 2 // of the four pieces of a file, the last two are missing again each time
	// After one minute, two, four, ..., then each hour.
	if passes < 24 || passes > 36 {
		t.Errorf("it was read %d times a day", passes)
	}
	b.fake.set(func() { b.fake.most = 0 })
	b.pass(2 * time.Hour)
	if r := b.w.seen().Resident["m"]; r.share() != 1 || r.Leaves {
		t.Errorf("since it stays: %+v", r)
	}
}

func testWarmerMeasures(t *testing.T) {
	b := newWarmBench(t, 1<<30)
	m := b.model("m", 2)
	m.Read = false
	b.w.want([]ramTarget{m})
	b.pass(time.Minute)
	if r := b.w.seen().Resident["m"]; b.fake.total() != 0 || r.Size != 128*mib || r.Bytes != 0 || r.Leaves {
		t.Errorf("%d bytes were read: %+v", b.fake.total(), r)
	}
	b.fake.set(func() { b.fake.resident["m-0"], b.fake.resident["m-1"] = 64*mib, 64*mib })
	b.pass(warmEvery + time.Second)
	if b.share("m") != 1 {
		t.Errorf("%.2f is there, which somebody else has brought", b.share("m"))
	}
	b.w.want(nil)
	b.pass(time.Second)
	if r := b.w.seen().Resident; len(r) != 0 {
		t.Errorf("nobody asks for it, and it is known: %v", r)
	}
	b.pass(time.Hour)
	before, _ := b.counted()
	b.pass(time.Hour)
	if c, _ := b.counted(); c.measures != before.measures {
		t.Error("it measures what nobody asks for")
	}
}

func testWarmerErrors(t *testing.T) {
	b := newWarmBench(t, 1<<30)
	b.fake.set(func() { b.fake.errs["bad-1"] = fmt.Errorf("rotten: %w", store.ErrCorrupt) })
	b.fake.set(func() { b.fake.errs["dark-0"] = store.ErrUnmeasurable })
	b.w.want([]ramTarget{b.model("bad", 2), b.model("dark", 1), b.model("good", 1)})
	b.pass(time.Minute)
	seen := b.w.seen().Resident
	c, _ := b.counted()
	if c.found == 0 || seen["bad"].Err == nil || !errors.Is(seen["dark"].Err, store.ErrUnmeasurable) || b.share("good") != 1 {
		t.Errorf("found %d times; %+v", c.found, seen)
	}
	if got := b.fake.total(); got != 64*mib {
		t.Errorf("%d MiB were read", got/mib)
	}
	// It can be measured, and then not be read.
	b.fake.set(func() { b.found = 0; clear(b.fake.errs) })
	b.pass(time.Hour)
	if c, _ := b.counted(); b.share("bad") != 1 || c.found != 0 {
		t.Errorf("since it can be read, %.2f is there, found %d times", b.share("bad"), c.found)
	}
}

func testWarmerHangs(t *testing.T) {
	b := newWarmBench(t, 1<<30)
	hang := make(chan struct{})
	b.fake.set(func() { b.fake.hang = hang })
	b.w.want([]ramTarget{b.model("m", 1)})
	b.pass(time.Hour)
	b.w.want([]ramTarget{b.model("other", 1)}) // the loop is not held up
	if v := b.w.seen(); v.Measured || b.w.speed.now().Rate != 0 {
		t.Errorf("it knows %+v", v)
	}
	b.fake.set(func() { b.fake.hang = nil })
	close(hang)
	b.pass(time.Minute)
	if b.share("other") != 1 {
		t.Errorf("%.2f of the other one is there", b.share("other"))
	}
}

func testWarmerRests(t *testing.T) {
	b := newWarmBench(t, 1<<30)
	b.fake.set(func() { b.down = true })
	b.w.want([]ramTarget{b.model("m", 1)})
	b.pass(time.Hour)
	if c, _ := b.counted(); c.measures != 0 || b.fake.total() != 0 {
		t.Errorf("measured %d times, read %d bytes", c.measures, b.fake.total())
	}
	b.fake.set(func() { b.down = false })
	b.pass(time.Minute)
	if b.share("m") != 1 {
		t.Errorf("%.2f is there", b.share("m"))
	}
}
