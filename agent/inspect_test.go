package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/agent/elect"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/file"
	"github.com/stoker-project/stoker/fetcher/store"
)

// memoryLedger keeps a ledger as an API server does.
type memoryLedger struct {
	mu      sync.Mutex
	text    string
	version int
	away    error
	puts    int
}

func (l *memoryLedger) get(context.Context) (text, version string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text, strconv.Itoa(l.version), l.away
}

func (l *memoryLedger) put(_ context.Context, text, version string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil {
		return l.away
	}
	if version != strconv.Itoa(l.version) {
		return elect.ErrConflict
	}
	l.text, l.version, l.puts = text, l.version+1, l.puts+1
	return nil
}

func (l *memoryLedger) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// reader is one node's inspector of a volume, and its own view of the volume.
type reader struct {
	*store.Store

	name    string
	inspect *inspector
	stop    func()

	mu    sync.Mutex
	bytes int64
	looks int
	// blind has it find wrong what others find right, stuck be unable to read it.
	blind, stuck string
}

func (r *reader) Scrub(ctx context.Context, p store.ScrubPoint) (store.ScrubPoint, error) {
	r.mu.Lock()
	blind, stuck := r.blind == p.SHA256, r.stuck == p.SHA256
	r.mu.Unlock()
	if stuck {
		return p, errors.New("connection timed out")
	}
	next, err := r.Store.Scrub(ctx, p)
	r.mu.Lock()
	r.bytes += next.Offset - p.Offset
	r.mu.Unlock()
	if err == nil && blind && next.Done {
		m, seen, i := r.where(context.WithoutCancel(ctx), p.SHA256)
		r.Doubt(m, seen, i)
		return p, store.ErrCorrupt
	}
	return next, err
}

// where is the only model's file with that content.
func (r *reader) where(ctx context.Context, sum string) (store.Manifest, store.Survey, int) {
	all, err := r.Published()
	if err != nil {
		panic(err)
	}
	seen, err := r.Survey(ctx, all[0])
	if err != nil {
		panic(err)
	}
	for i, f := range all[0].Files {
		if f.SHA256 == sum {
			return all[0], seen, i
		}
	}
	panic("no file with " + sum)
}

func (r *reader) read() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// says is what the node's labels would go by.
func (r *reader) says(t *testing.T) error {
	t.Helper()
	all, err := r.Published()
	if err != nil || len(all) != 1 {
		t.Fatalf("%d models, %v", len(all), err)
	}
	return r.Check(t.Context(), all[0])
}

// volume is a store that nobody writes any more, with one model of some files.
type volume struct {
	*testing.T
	dir    string
	ledger memoryLedger
	cfg    ScrubConfig
	size   int64
	zone   string
	blind  map[string]string // by node, see reader
	stuck  string            // on all, see reader
}

// newVolume makes one with files of a size. bare is one whose records are gone, as
// when it was copied file by file.
func newVolume(t *testing.T, files int, size int64, bare bool) *volume {
	t.Helper()
	v := &volume{T: t, dir: filepath.Join(t.TempDir(), "store"), cfg: ScrubConfig{Rate: 10 * mib, Cycle: time.Hour}}
	source := t.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	for i := range files {
		content := make([]byte, size)
		_, _ = random.Read(content) // it never fails
		v.size += size
		if err := os.WriteFile(filepath.Join(source, fmt.Sprintf("model-%02d.safetensors", i)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := store.Open(v.dir)
	if err != nil {
		t.Fatal(err)
	}
	src, err := fetcher.ParseSource("file://" + source)
	if err != nil {
		t.Fatal(err)
	}
	f := fetcher.New(fetcher.Options{Store: s, Drivers: fetcher.Drivers{fetcher.SchemeFile: func(fetcher.Access) (fetcher.Driver, error) { return file.New(), nil }}, Logger: slog.New(slog.DiscardHandler)})
	if _, err := f.Pull(t.Context(), fetcher.Request{Name: "m", Source: src, Include: []string{"*.safetensors"}}); err != nil {
		t.Fatal(err)
	}
	if bare {
		if err := os.RemoveAll(filepath.Join(v.dir, "agent")); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// start runs one node's inspector, as a process does that starts now.
func (v *volume) start(name string) *reader {
	v.Helper()
	s, err := store.OpenSealed(v.dir)
	if err != nil {
		v.Fatal(err)
	}
	if err := s.Ensure(v.Context()); err != nil {
		v.Fatal(err)
	}
	r := &reader{Store: s, name: name, blind: v.blind[name], stuck: v.stuck}
	r.inspect = newInspector(r, &v.ledger, name, inspectHooks{
		usable: func() bool { return true }, next: func() int { return 1 }, took: func(store.Reading) {},
		look: func(ctx context.Context) {
			r.mu.Lock()
			r.looks++
			r.mu.Unlock()
			if _, bounded := ctx.Deadline(); bounded {
				v.Error("a look is asked for that ends with a call to the API server")
			}
		},
	}, slog.New(slog.DiscardHandler))
	r.inspect.configure(v.cfg, Intervals{Verify: 30 * time.Second, Timeout: time.Second})
	zone := v.zone
	r.inspect.zone.Store(&zone)
	ctx, cancel := context.WithCancel(v.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.inspect.run(ctx)
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	v.Cleanup(r.stop)
	return r
}

func (v *volume) startMany(n int) []*reader {
	v.Helper()
	var all []*reader
	for i := range n {
		all = append(all, v.start("n"+strconv.Itoa(i)))
	}
	return all
}

// total is what all have read.
func total(readers []*reader) (n int64) {
	for _, r := range readers {
		n += r.read()
	}
	return n
}

func rightEverywhere(t *testing.T, readers []*reader) {
	t.Helper()
	for _, r := range readers {
		if err := r.says(t); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
}

// blob is the file of the model's nth content, and its digest.
func (v *volume) blob(n int) (path, sum string) {
	v.Helper()
	s, err := store.OpenReadOnly(v.dir)
	if err != nil {
		v.Fatal(err)
	}
	all, err := s.Published()
	if err != nil {
		v.Fatal(err)
	}
	sum = all[0].Files[n].SHA256
	return s.BlobPath(sum), sum
}

// rot changes a byte, and leaves size and times.
func (v *volume) rot(n int) {
	v.Helper()
	path, _ := v.blob(n)
	info, err := os.Stat(path)
	if err != nil {
		v.Fatal(err)
	}
	data, err := os.ReadFile(path)
	data[len(data)/2] ^= 1
	err = errors.Join(err, os.Chmod(path, 0o644))
	f, openErr := os.OpenFile(path, os.O_WRONLY, 0)
	if err = errors.Join(err, openErr); err != nil {
		v.Fatal(err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close(), os.Chmod(path, 0o444), os.Chtimes(path, info.ModTime(), info.ModTime())); err != nil {
		v.Fatal(err)
	}
}

func TestNodesReadAVolumeOnceForAll(t *testing.T) {
	for name, bare := range map[string]bool{"as it was verified": false, "copied file by file": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVolume(t, 24, mib+7, bare)
				v.cfg.Rate = mib / 8 // 200 seconds for one node
				readers := v.startMany(5)
				if err := readers[0].says(t); bare != errors.Is(err, store.ErrUnverified) || !bare && err != nil {
					t.Errorf("at once: %v", err)
				}
				began := time.Now()
				synctest.Wait()
				for range 59 {
					time.Sleep(time.Minute)
				}
				rightEverywhere(t, readers)
				if got := total(readers); got != v.size {
					t.Errorf("%d nodes read %d bytes of a volume that holds %d", len(readers), got, v.size)
				}
				for _, r := range readers {
					if share := r.read(); bare && (share == 0 || share > v.size/2) {
						t.Errorf("%s read %d of %d bytes", r.name, share, v.size)
					}
					if view := r.inspect.seen(); view.Models["m"].Bytes != v.size || view.Scrub.Bad != 0 || view.Scrub.oldest(map[string]bool{"m": true}).Before(began.Add(-time.Minute)) {
						t.Errorf("%s knows %+v", r.name, view)
					}
				}
				time.Sleep(time.Hour)
				if got := total(readers); got != 2*v.size {
					t.Errorf("after two cycles %d bytes were read of a volume that holds %d", got, v.size)
				}
			})
		})
	}
}

func TestUnknownContentIsReadAtTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 20, mib, true) // 8 seconds for one node
		v.cfg.Rate = 5 * mib / 2
		r := v.start("n0")
		time.Sleep(7 * time.Second)
		if got := r.read(); got > 18*mib || got < 13*mib || r.says(t) == nil {
			t.Errorf("%d MiB after 7 seconds at 2.5 MiB/s", got/mib)
		}
		time.Sleep(4 * time.Second)
		rightEverywhere(t, []*reader{r})
	})
}

func TestWhatIsKnownIsReadWithoutHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 20, mib, false)
		readers := v.startMany(3)
		time.Sleep(10 * time.Minute)
		// Twice as fast as a cycle of an hour needs, all together: a third.
		if got := total(readers); got > v.size/2 || got < v.size/6 {
			t.Errorf("%d of %d MiB after a sixth of a cycle", got/mib, v.size/mib)
		}
		time.Sleep(50 * time.Minute)
		if got := total(readers); got < v.size || got > v.size+2*mib {
			t.Errorf("%d of %d MiB after a cycle", got/mib, v.size/mib)
		}
	})
}

func TestANewProcessGoesByWhatWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 10, mib, true)
		first := v.start("n0")
		time.Sleep(5 * time.Minute)
		rightEverywhere(t, []*reader{first})
		first.stop()
		again, other := v.start("n0"), v.start("n1")
		time.Sleep(time.Second)
		rightEverywhere(t, []*reader{again, other})
		if again.inspect.ready.Load() == 0 || again.read()+other.read() != 0 {
			t.Errorf("ready %d; read %d and %d bytes again", again.inspect.ready.Load(), again.read(), other.read())
		}
		again.mu.Lock()
		defer again.mu.Unlock()
		if again.looks == 0 {
			t.Error("nobody was asked to look at the store")
		}
	})
}

func TestAnotherZoneReadsForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 10, mib, true)
		a := v.start("n0")
		time.Sleep(5 * time.Minute)
		v.zone = "b"
		b := v.start("n1")
		time.Sleep(5 * time.Minute)
		rightEverywhere(t, []*reader{a, b})
		if b.read() != v.size {
			t.Errorf("the node in another zone read %d of %d bytes", b.read(), v.size)
		}
	})
}

func TestRotOnAVolumeIsFoundByEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 12, mib, false)
		readers := v.startMany(4)
		time.Sleep(time.Second)
		rightEverywhere(t, readers)
		v.rot(7)
		time.Sleep(90 * time.Minute)
		for _, r := range readers {
			if err := r.says(t); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s: %v", r.name, err)
			}
			view := r.inspect.seen()
			if m := view.Models["m"]; m.Wrong != "model-07.safetensors" || view.Scrub.Bad == 0 {
				t.Errorf("%s knows %+v, %d bad", r.name, m, view.Scrub.Bad)
			}
		}
		readers[1].stop()
		again := v.start("n1")
		fresh := v.start("n9")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		for _, r := range []*reader{again, fresh} {
			if r.inspect.ready.Load() == 0 || r.says(t) == nil {
				t.Errorf("%s, started after it was found: ready %d, %v", r.name, r.inspect.ready.Load(), r.says(t))
			}
		}
	})
}

// TestOneNodeThatReadsWrong is a node whose path to the volume is bad: it says so
// of itself, and the others, who have read it themselves, go on.
func TestOneNodeThatReadsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 12, mib, true)
		_, sum := v.blob(3)
		v.blind = map[string]string{"bad": sum}
		bad := v.start("bad")
		time.Sleep(time.Minute)
		if err := bad.says(t); err == nil {
			t.Fatal("it has not found it wrong")
		}
		readers := v.startMany(3)
		time.Sleep(5 * time.Minute)
		rightEverywhere(t, readers)
		for _, r := range readers {
			if r.read() < mib {
				t.Errorf("%s read %d bytes, not what is contested", r.name, r.read())
			}
		}
		readers[0].stop()
		again := v.start("n0")
		bad.stop()
		badAgain := v.start("bad")
		time.Sleep(time.Second)
		rightEverywhere(t, []*reader{again, readers[1]})
		if again.read() != 0 || badAgain.says(t) == nil {
			t.Errorf("after restarts: read %d bytes again; the bad node says %v", again.read(), badAgain.says(t))
		}
		badAgain.mu.Lock()
		badAgain.blind = ""
		badAgain.mu.Unlock()
		time.Sleep(3 * time.Hour)
		rightEverywhere(t, []*reader{badAgain})
	})
}

func TestAChangedFileIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 6, mib, true)
		readers := v.startMany(2)
		time.Sleep(5 * time.Minute)
		rightEverywhere(t, readers)
		path, _ := v.blob(2)
		later := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path, later, later); err != nil {
			t.Fatal(err)
		}
		if err := readers[0].says(t); !errors.Is(err, store.ErrUnverified) {
			t.Errorf("changed, it is %v", err)
		}
		before := total(readers)
		time.Sleep(10 * time.Minute)
		rightEverywhere(t, readers)
		if got := total(readers) - before; got < mib || got > v.size {
			t.Errorf("read %d bytes again", got)
		}
	})
}

func TestWithoutTheAPIServerANodeReadsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 6, mib, true)
		v.ledger.away = errors.New("no route to host")
		readers := v.startMany(2)
		time.Sleep(5 * time.Minute)
		rightEverywhere(t, readers)
		if got := total(readers); got != 2*v.size || readers[0].inspect.ready.Load() != 0 {
			t.Errorf("each alone, they read %d bytes of %d", got, v.size)
		}
		v.ledger.set(func() { v.ledger.away = nil })
		time.Sleep(10 * time.Second)
		if readers[0].inspect.ready.Load() == 0 || readers[1].inspect.ready.Load() == 0 {
			t.Error("they have not seen that the API server is back")
		}
		time.Sleep(5 * time.Minute)
		late := v.start("late")
		time.Sleep(time.Second)
		rightEverywhere(t, []*reader{late})
		if got := total(readers); got != 2*v.size || late.read() != 0 {
			t.Errorf("what was read was not told: %d bytes of %d, late %d", got, v.size, late.read())
		}
	})
}

func TestWhatADeadNodeHadClaimedIsReadByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 8, mib, true)
		v.cfg.Rate = mib / 4 // 32 seconds; it claims all of it
		dead := v.start("dead")
		time.Sleep(5 * time.Second)
		dead.stop()
		v.cfg.Rate = 10 * mib
		r := v.start("n0")
		time.Sleep(20 * time.Second)
		if r.says(t) == nil {
			t.Fatal("nothing was claimed")
		}
		time.Sleep(10 * time.Minute)
		rightEverywhere(t, []*reader{r})
	})
}

// A node that dies in the middle of a file that is read slowly holds it up for a
// while, and not for as long as it would have read.
func TestADeadReaderIsReplacedWithinTheCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 2, 4*mib, false)
		v.cfg.Cycle = 24 * time.Hour // a file in six hours
		dead := v.start("dead")
		time.Sleep(2 * time.Hour)
		dead.stop()
		if dead.read() == 0 || dead.read() >= 4*mib {
			t.Fatalf("it read %d bytes", dead.read())
		}
		r := v.start("n0")
		time.Sleep(15 * time.Hour)
		if r.read() != v.size {
			t.Errorf("%d of %d bytes were read within 17 hours of a cycle of 24", r.read(), v.size)
		}
	})
}

// What cannot be read, for no fault of its content, keeps nothing else from being
// read.
func TestAFileThatCannotBeReadIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 6, mib, true)
		_, v.stuck = v.blob(0)
		r := v.start("n0")
		time.Sleep(10 * time.Minute)
		if got := r.inspect.seen().Models["m"].Bytes; got != v.size-mib {
			t.Errorf("%d of %d bytes are known to be right", got, v.size)
		}
		r.mu.Lock()
		r.stuck = ""
		r.mu.Unlock()
		time.Sleep(10 * time.Minute)
		rightEverywhere(t, []*reader{r})
	})
}

func TestLedgerStaysSmall(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := ledger{Version: ledgerVersion}
	for i := range 3000 {
		acc := l.open(sealedKey{Model: "model-" + strconv.Itoa(i), Revision: "0123456789ab", Print: strings.Repeat("f", 32)}, 200, now.Add(time.Duration(i)*time.Second), time.Hour)
		for file := range 200 {
			acc.found(file, "n", true, now)
		}
	}
	text, err := l.encode()
	if err != nil || len(text) > maxLedger {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	back, err := parseLedger(text)
	if err != nil || len(back.Accounts) < 200 {
		t.Fatalf("%d accounts are left, %v", len(back.Accounts), err)
	}
	for _, acc := range back.Accounts {
		if acc.Began.Before(now.Add(1000 * time.Second)) {
			t.Fatal("an old account is left, and newer ones are not")
		}
	}
	back.tidy(now.Add(100*time.Hour), time.Hour)
	if len(back.Accounts) != 0 {
		t.Errorf("%d accounts are left that nobody goes on with", len(back.Accounts))
	}
}

// What a ledger may hold that no agent has written well, or that another version has.
func TestLedgerThatIsOdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 4, mib, true)
		s, err := store.OpenSealed(v.dir)
		if err != nil {
			t.Fatal(err)
		}
		all, err := s.Published()
		if err != nil {
			t.Fatal(err)
		}
		seen, err := s.Survey(t.Context(), all[0])
		if err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf(`"model":"m","revision":%q,"print":%q`, shortRevision(all[0].Revision), seen.Print)
		v.ledger.text = `{"version":1,"accounts":[null,{` + key + `,"began":"9999-01-01T00:00:00Z","whole":"0001-01-01T00:00:00Z",
			"contested":{"x":null,"-1":{"n":{"right":false}},"1":null,"99999999999999999999":{"n":{}}},
			"claims":[{"node":"other","from":-5,"to":1000000000,"until":"9999-01-01T00:00:00Z"},{"node":"n0","from":9,"to":-9,"until":"9999-01-01T00:00:00Z"}],
			"done":"AAAAAAAAAAAAAAAAAAAA","later":{"field":1}}]}`
		readers := v.startMany(2)
		time.Sleep(5 * time.Minute)
		rightEverywhere(t, readers)
		if got := total(readers); got != v.size {
			t.Errorf("%d bytes were read of %d", got, v.size)
		}
	})
}

// However much was found wrong by however many, that it was stays in the ledger.
func TestLedgerForgetsNothingWrong(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := ledger{Version: ledgerVersion}
	for i := range 500 {
		l.open(sealedKey{Model: "calm-" + strconv.Itoa(i), Print: strings.Repeat("f", 32)}, 200, now, time.Hour)
	}
	acc := l.open(sealedKey{Model: "bad"}, 200, now.Add(-time.Hour), time.Hour)
	for file := range 200 {
		for node := range 100 {
			acc.found(file, fmt.Sprintf("a-node-with-a-name-of-some-length-%d", node), node%2 == 0, now)
		}
	}
	text, err := l.encode()
	if err != nil || len(text) > maxLedger {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	back, err := parseLedger(text)
	if err != nil {
		t.Fatal(err)
	}
	acc = back.find(sealedKey{Model: "bad"})
	for file := range 200 {
		if acc == nil || !acc.wrong(file) {
			t.Fatalf("that file %d was found wrong is forgotten", file)
		}
	}

	// So it does over rounds in which nobody was there to read it again.
	for range 8 {
		now = now.Add(3 * time.Hour)
		back.tidy(now, time.Hour)
		if acc = back.open(sealedKey{Model: "bad"}, 200, now, time.Hour); !acc.wrong(7) {
			t.Fatal("what nobody has read again counts as right")
		}
	}
	// A node whose clock is years behind takes nothing away.
	back.open(sealedKey{Model: "bad"}, 200, time.Unix(0, 0), time.Hour)
	back.tidy(now, time.Hour)
	if acc = back.find(sealedKey{Model: "bad"}); acc == nil || !acc.wrong(7) {
		t.Fatal("it is forgotten for a clock that is wrong")
	}
	// Who found it wrong first, and right later, both long ago, does not matter.
	old := ledger{Version: ledgerVersion}
	long := old.open(sealedKey{Model: "old"}, 1, now, time.Hour)
	long.found(0, "a", false, now)
	long.found(0, "b", true, now.Add(time.Minute))
	if long = old.open(sealedKey{Model: "old"}, 1, now.Add(3*time.Hour), time.Hour); long.wrong(0) {
		t.Error("that it was found right since is forgotten before that it was found wrong")
	}
	// When others have found it right since, and whoever found it wrong is gone, it is.
	acc.found(7, "other", true, now)
	now = now.Add(3 * time.Hour)
	for file := range 200 {
		acc.found(file, "other", true, now)
	}
	if acc = back.open(sealedKey{Model: "bad"}, 200, now.Add(2*time.Hour), time.Hour); acc.wrong(7) {
		t.Error("a node that is gone is believed for ever")
	}
}

// A contested file that a node cannot read is not promised there, and keeps it from
// reading nothing else.
func TestAContestedFileThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 6, mib, false)
		_, sum := v.blob(3)
		v.blind = map[string]string{"bad": sum}
		r := v.start("n0")
		r.mu.Lock()
		r.stuck = sum
		r.mu.Unlock()
		bad := v.start("bad")
		time.Sleep(2 * time.Hour)
		if bad.says(t) == nil || r.says(t) == nil {
			t.Errorf("what it cannot read and another found wrong: %v, %v", bad.says(t), r.says(t))
		}
		if r.read() == 0 {
			t.Error("it has read nothing else")
		}
	})
}

func TestLedgerThatCannotBeUsed(t *testing.T) {
	for _, text := range []string{"{", "[]", `{"version":2,"accounts":[]}`, `{"version":1,"accounts":[{"done":"%"}]}`} {
		if l, err := parseLedger(text); err == nil || len(l.Accounts) != 0 || l.Version != ledgerVersion {
			t.Errorf("%s: %+v, %v", text, l, err)
		}
	}
	if l, err := parseLedger(`{"version":1,"accounts":[null]}`); err != nil || len(l.Accounts) != 0 {
		t.Errorf("null: %+v, %v", l, err)
	}
}
