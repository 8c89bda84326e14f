package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/stoker-project/stoker/agent/elect"
	"github.com/stoker-project/stoker/fetcher/store"
)

// Inspected is what an inspector needs of a store into which nobody writes;
// *store.Store is one.
type Inspected interface {
	Published() ([]store.Manifest, error)
	// Survey looks at a revision's files, Trust and Doubt say of some of them that
	// their bytes are right or wrong as long as stat shows the same.
	Survey(ctx context.Context, m store.Manifest) (store.Survey, error)
	Trust(m store.Manifest, seen store.Survey, files ...int)
	Doubt(m store.Manifest, seen store.Survey, file int)
	Blobs(ctx context.Context) ([]store.Blob, error)
	// Scrub reads the next piece of a blob; see [Scrubber].
	Scrub(ctx context.Context, p store.ScrubPoint) (store.ScrubPoint, error)
}

// ledgerStore is where the ledger is kept.
type ledgerStore interface {
	// get returns the ledger's text, empty if there is none, and what put needs.
	get(ctx context.Context) (text, version string, err error)
	// put replaces it; elect.ErrConflict if somebody else has since version.
	put(ctx context.Context, text, version string) error
}

const (
	// ledgerTries is how often a ledger is written that others write as well.
	ledgerTries = 8
	// calmFactor is by how much reading what is known to be right is faster than a
	// cycle needs, all readers together.
	calmFactor = 2
)

// inspector reads a volume into which nobody writes. All of its content is read and
// hashed once a cycle, by all agents together: each takes a share, says so in the
// ledger, and goes by what others have found, if its own mount shows the same
// files. Only what somebody found wrong is read by everybody. It runs in a
// goroutine of its own: a disk that hangs stops it and nothing else.
type inspector struct {
	store   Inspected
	ledger  ledgerStore
	node    string
	hooks   inspectHooks
	logger  *slog.Logger
	setting atomic.Pointer[inspectSetting]
	zone    atomic.Pointer[string] // of the Node; nil: not known yet

	// Only the goroutine touches these.
	models   []surveyed
	surveyed time.Time
	// own is the ledger as it was last known: what is gone on with while the API
	// server is away.
	own ledger
	// judged is what this process found itself, results what of it the ledger does
	// not say yet.
	judged, results map[sealedKey]map[int]finding
	adopted         map[sealedKey]bool
	work            *share
	consulted       time.Time // when the ledger was last asked, in vain or not
	idle            bool      // nothing was left to read then
	last            time.Time // when the last piece had been read
	failed          int       // in a row
	told            string    // the last error, to tell it once

	// ready is the first look at the store that sees what the ledger has told; 0: it
	// has not told anything yet. refused: this account may not read it.
	ready   atomic.Int64
	refused atomic.Bool

	mu   sync.Mutex
	view inspectView
}

// inspectHooks are what an inspector asks of the agent.
type inspectHooks struct {
	usable func() bool               // the store answers
	look   func(ctx context.Context) // have the store looked at
	next   func() int                // the number of a look that has seen everything until now
	took   func(store.Reading)       // how long the disk took for a piece
}

type inspectSetting struct {
	scrub   ScrubConfig
	look    time.Duration // between two looks at the volume
	timeout time.Duration
}

// surveyed is a published revision as this node sees it.
type surveyed struct {
	store.Manifest
	seen store.Survey
	key  sealedKey
}

// share is what this node reads next.
type share struct {
	of    surveyed
	files []int
	rate  float64 // bytes per second
	point store.ScrubPoint
}

// inspectView is what others may know.
type inspectView struct {
	Scrub  scrubView
	Models map[string]inspected
}

// inspected is how far the reading of a model is.
type inspected struct {
	Revision string
	// Bytes of the revision are known to be right.
	Bytes int64
	// Wrong is the path of a file that this node found wrong, Contested of one that
	// another did and this one has not read yet; empty: none.
	Wrong, Contested string
}

func newInspector(s Inspected, l ledgerStore, node string, hooks inspectHooks, logger *slog.Logger) *inspector {
	return &inspector{
		store: s, ledger: l, node: node, hooks: hooks, logger: logger, own: ledger{Version: ledgerVersion},
		judged: map[sealedKey]map[int]finding{}, results: map[sealedKey]map[int]finding{}, adopted: map[sealedKey]bool{},
	}
}

func (x *inspector) configure(cfg ScrubConfig, iv Intervals) {
	x.setting.Store(&inspectSetting{scrub: cfg, look: iv.Verify, timeout: iv.Timeout})
}

// run inspects until ctx ends.
func (x *inspector) run(ctx context.Context) {
	x.last = time.Now()
	for ctx.Err() == nil {
		wait := x.step(ctx)
		if wait <= 0 {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// pause is how long to wait before looking again whether there is something to do.
func (x *inspector) pause() time.Duration { return min(x.setting.Load().look, scrubPause) / 4 }

// step does what is due now, and returns how long to wait before the next.
func (x *inspector) step(ctx context.Context) time.Duration {
	set, zone := x.setting.Load(), x.zone.Load()
	if zone == nil || !x.hooks.usable() {
		return x.pause()
	}
	now := time.Now()
	// The loop looks at the same files more often.
	if x.surveyed.IsZero() || now.Sub(x.surveyed) >= 4*set.look {
		if err := x.survey(ctx, *zone); err != nil {
			x.tell("look at the volume's content", err)
			return x.pause()
		}
	}
	again := 2 * set.look
	if x.ready.Load() == 0 {
		again = x.pause() // nothing is said before
	}
	if wait := x.consulted.Add(again).Sub(now); x.work == nil && (!x.idle || wait <= 0) || x.ready.Load() == 0 && wait <= 0 {
		x.consult(ctx, *zone)
	} else if x.work == nil {
		return min(wait, x.pause())
	}
	if x.work == nil {
		return x.pause()
	}
	size := max(min(x.work.size()-x.work.point.Offset, store.ScrubPiece), scrubLeast)
	if due := x.last.Add(time.Duration(float64(size) / x.work.rate * float64(time.Second))); due.After(now) {
		return min(due.Sub(now), x.pause())
	}
	return x.read(ctx)
}

func (s *share) size() int64 { return s.of.Files[s.files[0]].Size }

// survey looks what there is, and what of it is known to be right.
func (x *inspector) survey(ctx context.Context, zone string) error {
	manifests, err := x.store.Published()
	if err != nil {
		return err
	}
	var models []surveyed
	for _, m := range manifests {
		seen, err := x.store.Survey(ctx, m)
		if errors.Is(err, store.ErrCorrupt) {
			continue // the look at the store tells it
		}
		if err != nil {
			return err
		}
		models = append(models, surveyed{Manifest: m, seen: seen, key: sealedKey{Model: m.Name, Revision: shortRevision(m.Revision), Print: seen.Print, Zone: zone}})
	}
	blobs, err := x.store.Blobs(ctx)
	if err != nil {
		return err
	}
	if len(models) != len(x.models) || !slices.EqualFunc(models, x.models, func(a, b surveyed) bool { return a.key == b.key }) {
		x.work, x.idle = nil, false // what is to be read is to be found out anew
	}
	x.models, x.surveyed = models, time.Now()
	for k := range x.judged {
		if x.model(k) == nil {
			delete(x.judged, k)
		}
	}
	x.show(blobs)
	return nil
}

// show publishes what is known now. blobs is nil if they are the same.
func (x *inspector) show(blobs []store.Blob) {
	models := make(map[string]inspected, len(x.models))
	read := map[string]time.Time{} // by digest
	var began time.Time
	var total int64
	mine := map[string]finding{}
	for _, m := range x.models {
		for i, f := range x.judged[m.key] {
			mine[m.Files[i].SHA256] = f
		}
	}
	for _, m := range x.models {
		v := inspected{Revision: m.Revision}
		acc := x.own.find(m.key)
		for i, f := range m.Files {
			total += f.Size
			if m.seen.Known[i] {
				v.Bytes += f.Size
			}
			own, judged := mine[f.SHA256]
			if acc != nil && !judged {
				own, judged = acc.Contested[strconv.Itoa(i)][x.node]
			}
			switch {
			case m.seen.Doubted[i] && judged && !own.Right:
				v.Wrong = f.Path
			case m.seen.Doubted[i]:
				v.Contested = f.Path
			}
			at := own.At
			if acc != nil && acc.Whole.After(at) {
				at = acc.Whole
			}
			if at.After(read[f.SHA256]) {
				read[f.SHA256] = at
			}
		}
		if acc != nil && (began.IsZero() || acc.Began.Before(began)) {
			began = acc.Began
		}
		models[m.Name] = v
	}
	cfg := x.setting.Load().scrub
	x.mu.Lock()
	defer x.mu.Unlock()
	x.view.Models = models
	v := &x.view.Scrub
	if blobs == nil {
		blobs = slices.Clone(v.Blobs)
	}
	for i := range blobs {
		if at := read[blobs[i].SHA256]; at.After(blobs[i].VerifiedAt) {
			blobs[i].VerifiedAt = at
		}
	}
	v.Blobs, v.Started = blobs, began
	v.Expected = max(cfg.Cycle, time.Duration(float64(total)/float64(cfg.Rate)*float64(time.Second)))
}

// seen is what is known now.
func (x *inspector) seen() inspectView {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.view
}

// consult asks the ledger what others have found, tells what this node has, and
// takes the next share. While the API server is away, this node goes on by itself.
func (x *inspector) consult(ctx context.Context, zone string) {
	set := x.setting.Load()
	for try := 1; ; try++ {
		err := x.exchange(ctx, zone)
		if ctx.Err() != nil {
			return
		}
		x.consulted = time.Now()
		if err == nil {
			if x.ready.CompareAndSwap(0, int64(x.hooks.next())) {
				x.hooks.look(ctx)
			}
			return
		}
		if !errors.Is(err, elect.ErrConflict) || try == ledgerTries {
			x.tell("agree with other agents on what to read", err)
			x.refused.Store(apierrors.IsForbidden(err))
			if !errors.Is(err, elect.ErrConflict) && x.work == nil {
				x.take(&x.own, zone, x.consulted) // alone
			}
			return
		}
		timer := time.NewTimer(rand.N(min(time.Duration(try)*100*time.Millisecond, set.look)))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// exchange is one try of it.
func (x *inspector) exchange(ctx context.Context, zone string) error {
	set := x.setting.Load()
	callCtx, cancel := context.WithTimeout(ctx, set.timeout) // of the calls: a look at the store goes on
	defer cancel()
	before, version, err := x.ledger.get(callCtx)
	if err != nil {
		return err
	}
	l, err := parseLedger(before)
	if err != nil {
		x.tell("read what other agents have read", err)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	l.tidy(now, set.scrub.Cycle)
	l.release(x.node)
	for _, m := range x.models {
		if acc := x.own.find(m.key); acc != nil && l.find(m.key) == nil {
			l.Accounts = append(l.Accounts, acc) // somebody deleted it, or it could not be told
		}
	}
	for k, files := range x.results {
		m := x.model(k)
		if m == nil {
			continue // it is not there any more
		}
		acc := l.open(k, len(m.Files), now, set.scrub.Cycle)
		for i, f := range files {
			if !f.At.Before(acc.Began) || !f.Right {
				acc.found(i, x.node, f.Right, f.At)
			}
		}
	}
	x.adopt(ctx, &l, zone)
	x.take(&l, zone, now)
	after, err := l.encode()
	if err == nil && after != before {
		err = x.ledger.put(callCtx, after, version)
	}
	if err != nil {
		x.work = nil
		return err
	}
	x.own = l
	clear(x.results)
	x.show(nil)
	return nil
}

func (x *inspector) model(k sealedKey) *surveyed {
	for i := range x.models {
		if x.models[i].key == k {
			return &x.models[i]
		}
	}
	return nil
}

// adopt takes over what others have found. What this process has read itself, it
// knows better. A file about which nodes disagree stands as this node has found it;
// before it has, it is not promised by a process that knows nothing else of it.
func (x *inspector) adopt(ctx context.Context, l *ledger, zone string) {
	changed := false
	for _, m := range x.models {
		acc := l.find(m.key)
		if acc == nil {
			x.adopted[m.key] = true
			continue
		}
		first := !x.adopted[m.key]
		x.adopted[m.key] = true
		for i := range m.Files {
			if _, own := x.judged[m.key][i]; own {
				continue
			}
			switch mine, read := acc.Contested[strconv.Itoa(i)][x.node]; {
			case !acc.wrong(i):
				if acc.vouched(i) && !m.seen.Known[i] && !m.seen.Doubted[i] {
					x.store.Trust(m.Manifest, m.seen, i)
					changed = true
				}
			case first && read && mine.Right:
				x.store.Trust(m.Manifest, m.seen, i)
				changed = true
			case first:
				x.store.Doubt(m.Manifest, m.seen, i)
				changed = true
			}
		}
	}
	if !changed {
		return
	}
	if err := x.survey(ctx, zone); err != nil {
		x.tell("look at the volume's content", err)
	}
	x.hooks.look(ctx)
}

// take chooses what this node reads next and claims it: first what it must read
// itself, then what nobody knows to be right, then what is to be read once more.
func (x *inspector) take(l *ledger, zone string, now time.Time) {
	set := x.setting.Load()
	x.work, x.idle = nil, true
	var total int64
	accounts := make([]*account, len(x.models))
	for i, m := range x.models {
		accounts[i] = l.open(m.key, len(m.Files), now, set.scrub.Cycle)
		total += m.Bytes
	}
	calm := min(float64(set.scrub.Rate), calmFactor*float64(max(total, 1))/set.scrub.Cycle.Seconds()/float64(1+l.readers(x.node, zone, now)))
	for i, m := range x.models {
		if file := x.mustRead(m, accounts[i]); file >= 0 {
			x.work = &share{of: m, files: []int{file}, rate: float64(set.scrub.Rate)}
			x.idle = false
			return
		}
	}
	for _, unknown := range []bool{true, false} {
		rate := calm
		if unknown {
			rate = float64(set.scrub.Rate)
		}
		for i, m := range x.models {
			if files := x.free(m, accounts[i], unknown, now, rate); len(files) > 0 {
				var bytes int64
				for _, file := range files {
					bytes += max(m.Files[file].Size, scrubLeast)
				}
				// Twice as long as it takes: a claim that has ended costs a file read twice.
				until := now.Add(2*set.look + time.Duration(2*float64(bytes)/rate*float64(time.Second))).Truncate(time.Millisecond)
				accounts[i].Claims = append(accounts[i].Claims, claim{Node: x.node, From: files[0], To: files[len(files)-1] + 1, Until: until})
				x.work = &share{of: m, files: files, rate: rate}
				x.idle = false
				return
			}
		}
	}
}

// mustRead is a file that somebody has found wrong and that this node has not read
// in this round; -1: none.
func (x *inspector) mustRead(m surveyed, p *account) int {
	for i := range m.Files {
		if !p.wrong(i) {
			continue
		}
		own, read := x.judged[m.key][i]
		if !read {
			own, read = p.Contested[strconv.Itoa(i)][x.node]
		}
		if !read || own.At.Before(p.Began) {
			return i
		}
	}
	return -1
}

// free are some files in a row of which nobody has read any in this round, or does
// now: as many as are read in about the time between two looks.
func (x *inspector) free(m surveyed, p *account, unknown bool, now time.Time, rate float64) []int {
	var files []int
	most := int64(rate * x.setting.Load().look.Seconds())
	var bytes int64
	for i, f := range m.Files {
		is := !p.Done.has(i) && !p.wrong(i) && !p.claimed(i, x.node, now) && (!unknown || !m.seen.Known[i])
		if own, read := x.judged[m.key][i]; read && !own.At.Before(p.Began) {
			is = false // it is about to be said
		}
		switch {
		case is && (len(files) == 0 || bytes+f.Size <= most):
			files, bytes = append(files, i), bytes+max(f.Size, scrubLeast)
		case len(files) > 0:
			return files
		}
	}
	return files
}

// read reads one piece of this node's share.
func (x *inspector) read(ctx context.Context) time.Duration {
	w := x.work
	file := w.files[0]
	p := w.point
	if p.SHA256 == "" {
		p = store.ScrubPoint{SHA256: w.of.Files[file].SHA256}
	}
	next, err := x.store.Scrub(ctx, p)
	x.last = time.Now()
	switch {
	case ctx.Err() != nil:
	case err == nil:
		x.failed, x.told = 0, ""
		x.hooks.took(next.Cold)
		read := next.Offset - p.Offset
		if read < 0 {
			read = next.Offset // another file took its place, and was begun
		}
		x.mu.Lock()
		x.view.Scrub.Bytes += read
		x.mu.Unlock()
		if w.point = next; next.Done {
			x.judge(ctx, file, true)
		}
	case errors.Is(err, store.ErrUnverified): // it is gone, or another one by now
		x.work, x.surveyed, x.idle = nil, time.Time{}, false
		return x.pause()
	case errors.Is(err, store.ErrCorrupt):
		x.logger.Error("find content wrong", "sha256", p.SHA256, "model", w.of.Name, "file", w.of.Files[file].Path, "error", errText(err))
		x.mu.Lock()
		x.view.Scrub.Bad++
		x.mu.Unlock()
		x.judge(ctx, file, false)
	default:
		x.tell("read", err)
		if x.failed++; x.failed >= scrubTries {
			x.failed, x.work = 0, nil
		}
		return x.pause()
	}
	return 0
}

// judge notes what was found of the file that was read, and goes on to the next.
func (x *inspector) judge(ctx context.Context, file int, right bool) {
	w := x.work
	f := finding{Right: right, At: time.Now().UTC().Truncate(time.Millisecond)}
	for _, m := range []map[sealedKey]map[int]finding{x.judged, x.results} {
		if m[w.of.key] == nil {
			m[w.of.key] = map[int]finding{}
		}
		m[w.of.key][file] = f
	}
	was := false
	if m := x.model(w.of.key); m != nil {
		was = m.seen.Known[file]
		m.seen.Known[file], m.seen.Doubted[file] = right, !right
	}
	w.files, w.point = w.files[1:], store.ScrubPoint{}
	if len(w.files) == 0 || !right {
		x.work, x.idle = nil, false // tell it, and take more
	}
	x.show(nil)
	if was != right {
		x.hooks.look(ctx)
	}
}

// tell logs what hinders, once.
func (x *inspector) tell(doing string, err error) {
	if text := doing + errText(err); text != x.told {
		x.told = text
		x.logger.Warn("wait with reading the volume", "doing", doing, "error", errText(err))
	}
}
