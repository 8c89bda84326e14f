package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

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
	// passed over are files that could not be read, until when.
	passed    map[sealedKey]map[int]time.Time
	work      *share
	consulted time.Time // when the ledger was last asked, in vain or not
	idle      bool      // nothing was left to read then
	last      time.Time // when the last piece had been read
	failed    int       // in a row
	told      string    // the last error, to tell it once

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
		passed: map[sealedKey]map[int]time.Time{},
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
	wait := x.consulted.Add(again).Sub(now)
	switch w := x.work; {
	case w == nil && x.idle && wait > 0:
		return min(wait, x.pause())
	case w == nil, wait <= 0:
		x.consult(ctx, *zone)
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
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			x.tell("look at "+m.Name, err) // and at the others
			continue
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
	gone := func(k sealedKey) bool { return x.model(k) == nil }
	maps.DeleteFunc(x.judged, func(k sealedKey, _ map[int]finding) bool { return gone(k) })
	maps.DeleteFunc(x.passed, func(k sealedKey, _ map[int]time.Time) bool { return gone(k) })
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
			if w := x.work; w != nil && w.of.key == m.key && w.files[0] == i && !m.seen.Known[i] {
				v.Bytes += w.point.Offset // of what this node reads just now
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

func (x *inspector) model(k sealedKey) *surveyed {
	for i := range x.models {
		if x.models[i].key == k {
			return &x.models[i]
		}
	}
	return nil
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
			x.passOver(ctx, file)
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
	if len(w.files) == 0 || !right && !w.own {
		x.work, x.idle = nil, false // tell it, and take more
	}
	x.show(nil)
	if was != right {
		x.hooks.look(ctx)
	}
}

// passOver leaves a file that cannot be read alone for some time: others are to be
// read as well. One that somebody else has found wrong is not promised for it.
func (x *inspector) passOver(ctx context.Context, file int) {
	k := x.work.of.key
	if x.work.own {
		x.store.Doubt(x.work.of.Manifest, x.work.of.seen, file)
		x.hooks.look(ctx)
	}
	if x.passed[k] == nil {
		x.passed[k] = map[int]time.Time{}
	}
	x.passed[k][file] = time.Now().Add(x.claimFor())
	x.failed, x.work, x.idle = 0, nil, false
}

// tell logs what hinders, once.
func (x *inspector) tell(doing string, err error) {
	if text := doing + errText(err); text != x.told {
		x.told = text
		x.logger.Warn("wait with reading the volume", "doing", doing, "error", errText(err))
	}
}
