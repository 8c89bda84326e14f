package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// warmedEvery is how long an event about warm models stands for itself, at least:
	// what becomes warm meanwhile goes into the next one. While models go on to become
	// warm, it doubles up to warmedMost: a cold start of a thousand nodes with hundreds of
	// models each would fill the API server with events.
	warmedEvery = seriesEvery
	warmedMost  = 8 * warmedEvery
	// warmedNames is how many models one event names.
	warmedNames = 10
)

// warmed gathers what has become warm for one event.
type warmed struct {
	pending map[string]string // the note of each model
	told    time.Time
	wait    time.Duration // after told
}

// add takes a model that has become warm, drop one that is warm no more.
func (w *warmed) add(model, note string) {
	if w.pending == nil {
		w.pending = map[string]string{}
	}
	w.pending[model] = note
}

func (w *warmed) drop(model string) { delete(w.pending, model) }

// due returns the event for what is pending, if it is time: at once for the first model
// after a quiet while.
func (w *warmed) due(now time.Time) (event, bool) {
	since := now.Sub(w.told)
	if len(w.pending) == 0 || !w.told.IsZero() && since < w.wait {
		return event{}, false
	}
	if w.told.IsZero() || since >= 2*w.wait {
		w.wait = warmedEvery
	} else {
		w.wait = min(2*w.wait, warmedMost)
	}
	w.told = now
	e := event{Reason: EventModelWarm, Action: "Pull"}
	names := slices.Sorted(maps.Keys(w.pending))
	if len(names) == 1 {
		e.Note = names[0] + ": " + w.pending[names[0]]
	} else {
		more := ""
		if left := len(names) - warmedNames; left > 0 {
			more = fmt.Sprintf(" and %d more", left)
		}
		e.Note = fmt.Sprintf("%d models warm: %s%s", len(names), strings.Join(names[:min(len(names), warmedNames)], ", "), more)
	}
	clear(w.pending)
	return e, true
}
