package sharedfaults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"
)

// watchLabels compares labels with bytes until ctx ends.
func (w *world) watchLabels(ctx context.Context) {
	last := time.Now()
	for w.tick(ctx, 200*time.Millisecond) {
		w.checkLabels(ctx, time.Since(last))
		last = time.Now()
	}
}

// checkLabels compares each label of each Node with the bytes that it promises: in
// the volume, and by the Node's own mount. passed is the time since the last look; a
// machine that was busy elsewhere does not make an agent late.
func (w *world) checkLabels(ctx context.Context, passed time.Duration) {
	w.volumeMu.RLock()
	defer w.volumeMu.RUnlock()
	before, err := w.nodes(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.fail("read the Nodes: %v", err)
		}
		return
	}
	truth := map[promise]error{}
	found, promised := map[string]map[string]untruth{}, map[string]map[string]string{}
	lied := false
	for i := range before.Items {
		n := &before.Items[i]
		m := w.memberOf(n.Name)
		if m == nil {
			continue
		}
		found[n.Name], promised[n.Name] = map[string]untruth{}, ordeal.Promises(n.Labels)
		for name, revision := range promised[n.Name] {
			p := promise{name, revision}
			if _, known := truth[p]; !known {
				truth[p] = checkPromise(w.reader, w.source, p)
			}
			if u, is := m.untruthOf(p, truth[p]); is {
				found[n.Name][name], lied = u, true
			}
		}
	}
	if lied {
		// What went meanwhile was no lie.
		after, err := w.nodes(ctx)
		if err != nil {
			return
		}
		for i := range after.Items {
			n := &after.Items[i]
			stillThere(found[n.Name], promised[n.Name], ordeal.Promises(n.Labels))
		}
	}
	for _, m := range w.members {
		m.judge(found[m.node], min(passed, 400*time.Millisecond))
	}
}

// untruthOf says what is wrong with a promise of this Node, if anything is.
func (m *member) untruthOf(p promise, inVolume error) (untruth, bool) {
	if inVolume != nil {
		return untruth{wrongBytes, inVolume.Error()}, true
	}
	m.viewMu.RLock()
	defer m.viewMu.RUnlock()
	if m.blind.Load() {
		return untruth{noView, "its mount is " + *m.view.Load()}, true
	}
	if err := checkPromise(m.mine, m.source, p); err != nil {
		return untruth{wrongView, err.Error()}, true
	}
	return untruth{}, false
}

func checkPromise(r *ordeal.Reader, s *ordeal.Source, p promise) error {
	path, err := r.Revision(p.name, p.revision)
	if err != nil {
		return err
	}
	return r.Check(path, s)
}

// checkPublished demands that whatever is published is completely there, unless the
// harness broke it: labelled or not.
func (w *world) checkPublished() {
	w.volumeMu.RLock()
	defer w.volumeMu.RUnlock()
	paths, err := w.reader.Manifests("")
	w.must("list the manifests", err)
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) || w.excuseOf(modelOf(path)).damaged {
			continue
		}
		if err := w.reader.Check(path, w.source); err != nil {
			// It may have been removed meanwhile: the manifest goes first.
			if now, statErr := os.Stat(path); statErr == nil && os.SameFile(now, info) {
				w.fail("what is published is not there: %v", err)
			}
		}
	}
}

// checkDownloads demands that little was downloaded twice.
func (w *world) checkDownloads() {
	for _, text := range w.source.TooMuch() {
		w.fail("%s", text)
	}
}

// heal ends every fault.
func (w *world) heal() {
	for _, m := range w.members {
		m.mend()
		m.api.Set(ordeal.APIFault{})
		if m.stopped.Load() {
			m.signal(contSignal)
		}
	}
	w.source.Heal(rate)
	w.writeList()
	for _, m := range w.members {
		m.ensure()
	}
	w.exposed()
}

// wrongInVolume says what the volume holds that the list does not name, or does not
// hold of what it names, for whichever node.
func (w *world) wrongInVolume() string {
	w.volumeMu.RLock()
	defer w.volumeMu.RUnlock()
	for _, name := range w.names() {
		wanted := 0
		if w.entries[name].on {
			wanted = 1
			if err := checkPromise(w.reader, w.source, promise{name, w.commitOf(name)[:ordeal.RevLength]}); err != nil {
				return fmt.Sprintf("the volume lacks %s: %v", name, err)
			}
		}
		paths, err := w.reader.Manifests(name)
		w.must("list the manifests", err)
		if len(paths) > wanted {
			return fmt.Sprintf("the volume has %v, of which %d are wanted", paths, wanted)
		}
	}
	return ""
}

// converge ends every fault and waits until all Nodes say what they should, and go
// on saying it; then nothing is excused any more.
func (w *world) converge() time.Duration {
	w.heal()
	began := time.Now()
	const limit, settle = 90 * time.Second, 1200 * time.Millisecond
	var since time.Time
	for since.IsZero() || time.Since(since) < settle {
		if !w.tick(w.t.Context(), 100*time.Millisecond) {
			return 0
		}
		list, err := w.nodes(w.t.Context())
		if err != nil {
			w.fail("read the Nodes: %v", err)
			return 0
		}
		wrong := ""
		for i := range list.Items {
			n := &list.Items[i]
			m := w.memberOf(n.Name)
			if said, want := ordeal.Promises(n.Labels), w.wanted(m); !maps.Equal(said, want) {
				wrong = fmt.Sprintf("%s says %v, should say %v", n.Name, said, want)
			}
		}
		if lying := w.lying(); wrong == "" && lying > 0 {
			wrong = fmt.Sprintf("%d labels lie", lying)
		}
		if wrong == "" {
			wrong = w.wrongInVolume()
		}
		switch {
		case wrong == "" && since.IsZero():
			since = time.Now()
		case wrong != "":
			since = time.Time{}
			if time.Since(began) > limit {
				w.fail("%s after the last fault %s", limit, wrong)
				return 0
			}
		}
	}
	took := time.Since(began)
	w.checkDownloads()
	w.noExcuse()
	here, err := w.reader.Blobs()
	w.must("list the blobs", err)
	w.source.Settled(here)
	w.checkPublished()
	return took
}
