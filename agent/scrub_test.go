package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/stoker-project/stoker/fetcher/store"
)

const mib = 1 << 20

// fakeScrubs is content that is read in no time, and when it was.
type fakeScrubs struct {
	dir string

	mu    sync.Mutex
	blobs map[string]store.Blob
	errs  map[string]error
	reads []scrubRead
}

type scrubRead struct {
	sum   string
	bytes int64
	at    time.Time
}

func (f *fakeScrubs) Blobs(context.Context) ([]store.Blob, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []store.Blob
	for _, sum := range slices.Sorted(maps.Keys(f.blobs)) {
		all = append(all, f.blobs[sum])
	}
	return all, nil
}

func (f *fakeScrubs) Scrub(ctx context.Context, p store.ScrubPoint) (store.ScrubPoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return p, err
	}
	n := min(f.blobs[p.SHA256].Size-p.Offset, store.ScrubPiece)
	f.reads = append(f.reads, scrubRead{p.SHA256, n, time.Now()})
	if err := f.errs[p.SHA256]; err != nil {
		return p, err
	}
	p.Offset += n
	p.Done = p.Offset == f.blobs[p.SHA256].Size
	return p, nil
}

func (f *fakeScrubs) AgentFile(name string) string { return filepath.Join(f.dir, name) }

func (f *fakeScrubs) WriteAgentFile(name string, data []byte) error {
	return os.WriteFile(f.AgentFile(name), data, 0o644)
}

func (f *fakeScrubs) total() (n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.reads {
		n += r.bytes
	}
	return n
}

// sum is a digest that begins with these digits.
func sum(begin string) string { return begin + strings.Repeat("0", 64-len(begin)) }

// scrubBench runs scrubbers on fakes.
type scrubBench struct {
	*testing.T
	fake   *fakeScrubs
	scrub  *scrubber
	cfg    ScrubConfig
	usable bool
	busy   bool
	found  int
	stop   func()
}

// newScrubBench has so many blobs of a size, in as many shelves.
func newScrubBench(t *testing.T, cfg ScrubConfig, blobs int, size int64) *scrubBench {
	t.Helper()
	b := &scrubBench{T: t, cfg: cfg, usable: true}
	b.fake = &fakeScrubs{dir: t.TempDir(), blobs: map[string]store.Blob{}, errs: map[string]error{}}
	for i := range blobs {
		s := sum(fmt.Sprintf("%02x", i))
		b.fake.blobs[s] = store.Blob{SHA256: s, Size: size, Models: []string{"m"}, VerifiedAt: time.Now()}
	}
	b.start()
	return b
}

// start runs a scrubber, as a process does that starts now.
func (b *scrubBench) start() {
	locked := func(get func() bool) func() bool {
		return func() bool {
			b.fake.mu.Lock()
			defer b.fake.mu.Unlock()
			return get()
		}
	}
	b.scrub = newScrubber(
		b.fake, locked(func() bool { return b.usable }), locked(func() bool { return b.busy }),
		func(context.Context) { b.set(func() { b.found++ }) }, func(store.Reading) {}, slog.New(slog.DiscardHandler),
	)
	b.scrub.configure(b.cfg)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.scrub.run(ctx)
	}()
	b.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	b.Cleanup(b.stop)
}

func (b *scrubBench) set(change func()) {
	b.fake.mu.Lock()
	defer b.fake.mu.Unlock()
	change()
}

// looks is how often a look at the store was asked for.
func (b *scrubBench) looks() (n int) {
	b.set(func() { n = b.found })
	return n
}

func TestScrubTakesOneCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScrubBench(t, ScrubConfig{Rate: 50 * mib, Cycle: time.Hour}, 100, 3*mib)
		after(59 * time.Minute)
		if v := b.scrub.seen(); v.Last != 0 || v.Expected != time.Hour {
			t.Errorf("after less than a cycle: %+v", v)
		}
		after(2 * time.Minute)
		v := b.scrub.seen()
		if v.Last < 59*time.Minute || v.Last > 61*time.Minute {
			t.Errorf("a cycle took %s", v.Last)
		}
		if got := b.fake.total(); got < 300*mib || got > 310*mib {
			t.Errorf("read %d MiB in a cycle", got/mib)
		}
		b.fake.mu.Lock()
		reads := slices.Clone(b.fake.reads)
		b.fake.mu.Unlock()
		for i, r := range reads[1:] {
			if gap := r.at.Sub(reads[i].at); gap < 5*time.Second || gap > 20*time.Second {
				t.Fatalf("a piece is read %s after the one before", gap)
			}
		}
		after(time.Hour)
		if v := b.scrub.seen(); v.Last < 59*time.Minute || v.Last > 61*time.Minute {
			t.Errorf("the next cycle took %s", v.Last)
		}
		if info, err := os.Stat(b.fake.AgentFile(scrubFile)); err != nil || info.Size() > 16<<10 {
			t.Errorf("its memory: %v, %v", info, err)
		}
	})
}

// What the rate does not suffice for takes longer, and says so.
func TestScrubOfLargeStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScrubBench(t, ScrubConfig{Rate: mib, Cycle: time.Minute}, 100, 3*mib)
		after(4*time.Minute + 50*time.Second)
		if v := b.scrub.seen(); v.Last != 0 || v.Expected != 5*time.Minute {
			t.Errorf("before the end: %s, %s", v.Last, v.Expected)
		}
		after(20 * time.Second)
		if v := b.scrub.seen(); v.Last < 5*time.Minute || v.Last > 5*time.Minute+10*time.Second {
			t.Errorf("a cycle took %s", v.Last)
		}
	})
}

func TestScrubMakesWayForPulls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScrubBench(t, ScrubConfig{Rate: 4 * mib, Cycle: time.Minute}, 1000, 3*mib)
		after(time.Minute)
		fast := b.fake.total()
		b.set(func() { b.busy = true })
		after(time.Minute)
		if slow := b.fake.total() - fast; fast < 230*mib || slow < 55*mib || slow > 65*mib {
			t.Errorf("%d MiB in a minute, %d beside a pull", fast/mib, slow/mib)
		}
	})
}

// A restart costs nothing of the cycle, a kill at most what was read since the
// memory was last written: also of a single large file.
func TestScrubGoesOn(t *testing.T) {
	for name, kill := range map[string]bool{"restarted": false, "killed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newScrubBench(t, ScrubConfig{Rate: 50 * mib, Cycle: 3 * time.Hour}, 1, 300*mib)
				lost := int64(0)
				for range 9 {
					after(20*time.Minute + 30*time.Second)
					if kill {
						b.set(func() { b.usable = false }) // so that nothing is written at the end
						lost += 3 * mib
					}
					b.stop()
					b.set(func() { b.usable = true })
					b.start()
				}
				after(time.Minute)
				if v := b.scrub.seen(); v.Last < 179*time.Minute || v.Last > 185*time.Minute {
					t.Errorf("a cycle took %s", v.Last)
				}
				if got := b.fake.total(); got > 312*mib+lost { // 9 of them of the next cycle
					t.Errorf("read %d MiB", got/mib)
				}
			})
		})
	}
}

func TestScrubWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScrubBench(t, ScrubConfig{Rate: 50 * mib, Cycle: time.Hour}, 100, 3*mib)
		after(10 * time.Minute)
		b.set(func() { b.usable = false })
		after(time.Minute)
		before := b.fake.total()
		after(time.Hour)
		if got := b.fake.total(); got != before || before == 0 {
			t.Errorf("read %d bytes of a store that is not known", got-before)
		}
		b.set(func() { b.usable = true })
		// It is late, so it hurries, within the rate.
		after(30*time.Second + 10*time.Second)
		if got := b.fake.total(); got < 300*mib {
			t.Errorf("read %d MiB", got/mib)
		}
	})
}

// A blob that is wrong is counted once and told at once; what was changed, or
// is wrong already, is others' to mend; neither keeps the rest from being read.
func TestScrubFindsBadBlobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScrubBench(t, ScrubConfig{Rate: 50 * mib, Cycle: time.Hour}, 10, mib)
		b.set(func() {
			b.fake.errs[sum("02")] = fmt.Errorf("it is wrong: %w", store.ErrCorrupt)
			b.fake.errs[sum("04")] = fmt.Errorf("it was changed: %w", store.ErrUnverified)
		})
		after(30 * time.Minute)
		if v := b.scrub.seen(); v.Bad != 1 || b.looks() != 1 {
			t.Errorf("%d bad blobs, %d looks at the store", v.Bad, b.looks())
		}
		b.set(func() { b.fake.errs[sum("02")] = b.fake.errs[sum("04")] })
		after(2 * time.Hour)
		if v := b.scrub.seen(); v.Bad != 1 || v.Last < 59*time.Minute || v.Last > 61*time.Minute {
			t.Errorf("%d bad blobs, a cycle took %s", v.Bad, v.Last)
		}
		if got := b.fake.total(); got < 20*mib {
			t.Errorf("read %d MiB", got/mib)
		}
	})
}

// An error that is not the blob's fault says nothing about it, and does not hold
// the scrub for ever; the metric shows what was not read.
func TestScrubErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		b := newScrubBench(t, ScrubConfig{Rate: 50 * mib, Cycle: time.Hour}, 10, mib)
		b.set(func() { b.fake.errs[sum("03")] = fs.ErrInvalid })
		oldest := func() time.Duration { return b.scrub.seen().oldest(map[string]bool{"m": true}).Sub(begin) }
		after(3 * time.Hour)
		if v := b.scrub.seen(); v.Bad != 0 || b.looks() != 0 || v.Last < time.Hour || v.Last > 65*time.Minute {
			t.Errorf("%d bad blobs, a cycle took %s", v.Bad, v.Last)
		}
		if got := oldest(); got != 0 {
			t.Errorf("all was read %s after the begin", got)
		}
		b.set(func() { delete(b.fake.errs, sum("03")) })
		after(2 * time.Hour)
		if got := oldest(); got < 3*time.Hour || got > 5*time.Hour {
			t.Errorf("all was read %s after the begin", got)
		}
		if got := b.scrub.seen().oldest(map[string]bool{"other": true}); !got.IsZero() {
			t.Errorf("nothing of no model was read at %s", got)
		}
	})
}

func TestScrubSettingsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScrubBench(t, ScrubConfig{Rate: 50 * mib, Cycle: 24 * time.Hour}, 10, mib)
		after(time.Hour)
		b.scrub.configure(ScrubConfig{Rate: 50 * mib, Cycle: 30 * time.Minute})
		after(time.Minute)
		if v := b.scrub.seen(); v.Last < time.Hour || v.Last > 61*time.Minute {
			t.Errorf("a cycle took %s", v.Last)
		}
		after(31 * time.Minute)
		if v := b.scrub.seen(); v.Last < 29*time.Minute || v.Last > 31*time.Minute {
			t.Errorf("the next took %s", v.Last)
		}
	})
}

// A memory that cannot be used costs a cycle, and an empty store no writes.
func TestScrubMemory(t *testing.T) {
	for name, text := range map[string]string{"damaged": "{", "newer": `{"version":2}`, "of tomorrow": `{"version":1,"started":"2999-01-01T00:00:00Z"}`} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newScrubBench(t, ScrubConfig{Rate: 50 * mib, Cycle: time.Hour}, 10, mib)
				b.stop()
				if err := os.WriteFile(b.fake.AgentFile(scrubFile), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				b.start()
				after(61 * time.Minute)
				if v := b.scrub.seen(); v.Last < 59*time.Minute || v.Last > 61*time.Minute {
					t.Errorf("a cycle took %s", v.Last)
				}
			})
		})
	}
	t.Run("empty", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newScrubBench(t, ScrubConfig{Rate: 50 * mib, Cycle: time.Hour}, 0, 0)
			after(3 * time.Hour)
			b.stop()
			if _, err := os.Stat(b.fake.AgentFile(scrubFile)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its memory: %v", err)
			}
			if v := b.scrub.seen(); v.Last != 0 {
				t.Errorf("a cycle over nothing took %s", v.Last)
			}
		})
	})
}

// A read that hangs in the kernel holds up the scrub and nothing else.
func TestScrubThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast+"scrub: {cycle: 1s}\n")
		hang := make(chan struct{})
		b.store.set(func() { b.store.scrubHang = hang })
		b.start()
		after(10 * time.Second)
		if b.cluster.label(WarmPrefix+"a") != "disk" || b.agent.healthy(time.Now()) != nil {
			t.Error("the agent does not do its work")
		}
		if !strings.Contains(page(t, b.agent), "stoker_scrub_cycle_age_seconds") {
			t.Error("the page does not tell the age of the cycle")
		}
		start := time.Now()
		b.stop()
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("ending took %s", took)
		}
		close(hang)
		synctest.Wait()
	})
}

func TestScrubMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		view := scrubView{
			Expected: 2 * time.Hour, Bytes: 1500, Bad: 1, Started: now.Add(-time.Minute), Last: time.Hour,
			Blobs: []store.Blob{
				{SHA256: sum("aa"), Models: []string{"cold"}, VerifiedAt: now.Add(-9 * time.Hour)},
				{SHA256: sum("ab"), Models: []string{"cold", "warm"}, VerifiedAt: now.Add(-8 * time.Hour)},
				{SHA256: sum("ac"), Models: []string{"warm"}, VerifiedAt: now.Add(-4 * time.Hour)},
			},
			Read: map[string]time.Time{"ab": now.Add(-3 * time.Hour)},
		}
		m := newScrubMetrics(func() scrubView { return view }, func() map[string]bool { return map[string]bool{"warm": true} })
		want := fmt.Sprintf(`# HELP stoker_scrub_bad_blobs_total Blobs that the scrub found wrong or could not read.
# TYPE stoker_scrub_bad_blobs_total counter
stoker_scrub_bad_blobs_total 1
# HELP stoker_scrub_cycle_age_seconds Age of the cycle under way; absent while nothing is published.
# TYPE stoker_scrub_cycle_age_seconds gauge
stoker_scrub_cycle_age_seconds 60
# HELP stoker_scrub_expected_cycle_seconds How long a cycle takes with the settings in force: more than scrub.cycle where scrub.rate does not suffice.
# TYPE stoker_scrub_expected_cycle_seconds gauge
stoker_scrub_expected_cycle_seconds 7200
# HELP stoker_scrub_last_cycle_seconds How long the last complete cycle took; absent before the first.
# TYPE stoker_scrub_last_cycle_seconds gauge
stoker_scrub_last_cycle_seconds 3600
# HELP stoker_scrub_oldest_read_timestamp_seconds Since when every blob of a warm model has been read whole and found right; absent without one.
# TYPE stoker_scrub_oldest_read_timestamp_seconds gauge
stoker_scrub_oldest_read_timestamp_seconds %d
# HELP stoker_scrub_read_bytes_total Bytes of published content that the scrub has read again.
# TYPE stoker_scrub_read_bytes_total counter
stoker_scrub_read_bytes_total 1500
`, now.Add(-4*time.Hour).Unix())
		if err := testutil.CollectAndCompare(m, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
		problems, err := testutil.CollectAndLint(m)
		if err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", problems, err)
		}
	})
}
