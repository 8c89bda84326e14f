package agent

import (
	"encoding/json"
	"errors"
	"maps"

	"github.com/stoker-project/stoker/fetcher/store"
)

// tellCorrupt says once of each model that its published files are no longer
// what was verified. The plan takes the label away, and has the model pulled
// again when the API server has confirmed that.
func (a *Agent) tellCorrupt(f facts) {
	for name, have := range f.Store.Value.Models {
		r := a.loop.records[name]
		corrupt := errors.Is(have.Err, store.ErrCorrupt)
		if f.Shared.Sealed && errors.Is(have.Err, store.ErrUnverified) {
			corrupt = f.Shared.Inspected[name].Wrong != "" // else nobody has read it yet
		}
		if corrupt == r.Corrupt || f.Store.Gen < r.Fresh {
			continue
		}
		r.Corrupt = corrupt
		a.loop.records[name] = r
		if corrupt {
			a.logger.Error("published files changed", "model", name, "error", errText(have.Err))
			note := "its label is withdrawn and it is pulled again: "
			if f.Shared.Sealed {
				note = "its label is withdrawn: "
			}
			a.events.record(event{
				Reason: EventModelCorrupt, Subject: name, Action: "Check", Warning: true, Note: note + errText(have.Err),
			})
		}
	}
}

// storeReadOnly says what follows from a store that cannot be written.
const storeReadOnly = "the store is read-only: what is there can be read, nothing can be pulled or removed"

// tellReadOnly says once when the store's file system takes no more writes.
func (a *Agent) tellReadOnly(f facts) {
	if !f.Store.Known || f.Store.Value.Usage.ReadOnly == a.loop.readOnly {
		return
	}
	a.loop.readOnly = f.Store.Value.Usage.ReadOnly
	if !a.loop.readOnly {
		a.logger.Info("the store can be written again")
		return
	}
	a.logger.Error("the store's file system has become read-only")
	a.events.record(event{
		Reason: EventStoreReadOnly, Action: "Observe", Warning: true,
		Note: storeReadOnly + "; look at the node's disk and its kernel log, then mount it writable again",
	})
}

// keepMemory writes what a restart must know, if it changed, and forgets
// models of which nothing is left.
func (a *Agent) keepMemory(f facts, d decision) {
	l := &a.loop
	if f.Shared.follows() {
		return // the writer's
	}
	if !f.Store.Known {
		return // what is there is not known, so nothing is forgotten
	}
	told := make(map[string]bool, len(d.Models))
	for _, m := range d.Models {
		told[m.Name] = true
	}
	kept := map[string]modelMemory{}
	for name, r := range l.records {
		_, stored := f.Store.Value.Models[name]
		_, runs := f.Running[name]
		if !told[name] && !stored && !runs && !f.Removing[name] {
			delete(l.records, name)
			continue
		}
		if r.Managed {
			kept[name] = modelMemory{
				LookedUp: r.LookedUp.UTC().Truncate(0), Unwanted: r.Unwanted.UTC().Truncate(0), LastUsed: r.LastUsed.UTC().Truncate(usedStep),
			}
		}
	}
	if l.kept.Models != nil && maps.Equal(l.kept.Models, kept) && l.kept.ColdSince.Equal(l.coldSince) {
		return
	}
	l.kept = memory{Version: 1, Models: kept, ColdSince: l.coldSince.UTC().Truncate(0)}
	data, err := json.Marshal(l.kept)
	if err != nil {
		a.logger.Error("render the agent's memory", "error", errText(err))
		return
	}
	a.scribe.put(memoryFile, func() error { return a.o.Store.WriteAgentFile(memoryFile, data) })
}
