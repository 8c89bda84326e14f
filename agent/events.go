package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent/kubeclient"
)

// Reasons of the events on the Node.
const (
	EventModelWarm       = "ModelWarm"
	EventModelPullFailed = "ModelPullFailed"
	EventModelEvicted    = "ModelEvicted"
	EventModelCorrupt    = "ModelCorrupt"
	EventListRejected    = "ListRejected"
	EventStoreReadOnly   = "StoreReadOnly"
	EventGPUMemoryLeaked = "GPUMemoryLeaked"
	EventGPUMemoryFreed  = "GPUMemoryFreed"
	EventNodeWarm        = "NodeWarm"
	EventNodeStillCold   = "NodeStillCold"
)

const (
	// eventNamespace is where events of objects without a namespace live.
	eventNamespace = metav1.NamespaceDefault
	// reporter is the events' reportingController.
	reporter = Domain + "/agent"
	// maxNote is the API's limit of a note in bytes.
	maxNote = 1024
	// maxSeries bounds what waits and what is counted.
	maxSeries = 512
	// seriesEvery is how often a repeated event is written again, at most.
	seriesEvery = time.Minute
	// seriesEnd is when a series is forgotten: the API server drops events
	// after an hour by default.
	seriesEnd = 50 * time.Minute
	// eventTries is how often one write is tried; events are not state, and
	// what they say stands in the annotation as well.
	eventTries = 5
)

// event is something worth a line in `kubectl describe node`.
type event struct {
	Reason string
	// Subject is the model or device it is about; "" for the agent itself.
	Subject string
	Action  string
	Note    string
	Warning bool
	// Fleet, if not "", is the object's name: it is an event of the fleet, which
	// whoever is first creates. It regards the namespace that the agents are in.
	Fleet string
}

// eventWrite is one request: a new event, or the count of an older one.
type eventWrite struct {
	event
	NodeUID types.UID
	// Name of the event to update; empty: create.
	Name  string
	Count int32
	First time.Time
	Last  time.Time
}

// eventAPI writes events of the Node with create and patch.
type eventAPI struct {
	events *kubeclient.Events
	node   string
	// namespace is the one that the agents are in.
	namespace string
}

func (a eventAPI) write(ctx context.Context, e eventWrite) (string, error) {
	if e.Name != "" {
		patch, err := json.Marshal(map[string]any{"series": eventsv1.EventSeries{Count: e.Count, LastObservedTime: metav1.NewMicroTime(e.Last)}})
		if err != nil {
			return "", err
		}
		_, err = a.events.Patch(ctx, e.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager})
		if !apierrors.IsNotFound(err) {
			return e.Name, err
		}
		// It has expired: begin anew.
	}
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	ev := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{GenerateName: eventNamePrefix(a.node), Namespace: eventNamespace},
		EventTime:           metav1.NewMicroTime(e.First),
		ReportingController: reporter,
		ReportingInstance:   truncate(FieldManager+"-"+a.node, 128),
		Action:              e.Action,
		Reason:              e.Reason,
		Regarding:           corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: a.node, UID: e.NodeUID},
		Note:                e.Note,
		Type:                kind,
	}
	if e.Fleet != "" {
		ev.Name, ev.GenerateName = e.Fleet, ""
		ev.Regarding = corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace", Name: a.namespace}
	}
	if e.Count > 1 {
		ev.Series = &eventsv1.EventSeries{Count: e.Count, LastObservedTime: metav1.NewMicroTime(e.Last)}
	}
	made, err := a.events.Create(ctx, ev, metav1.CreateOptions{FieldManager: FieldManager})
	if e.Fleet != "" && apierrors.IsAlreadyExists(err) {
		return e.Fleet, nil // another node was first
	}
	if err != nil {
		return "", err
	}
	return made.Name, nil
}

// eventNamePrefix leaves room for the suffix that the API server adds.
func eventNamePrefix(node string) string {
	return strings.TrimRight(node[:min(len(node), 200)], ".-") + ".stoker-"
}

// recorder turns repeats into one counted event and writes them one at a time
// from a goroutine of its own. For each reason and subject there is one series;
// another text begins another event, but not more often than every seriesEvery:
// what is written is bounded however fast texts change.
type recorder struct {
	write  func(ctx context.Context, e eventWrite) (string, error)
	wake   chan struct{}
	count  func(ok bool)
	hide   func(string) string // takes secrets out of a text
	logger *slog.Logger

	mu      sync.Mutex
	series  map[seriesKey]*series
	nodeUID types.UID
}

type seriesKey struct{ reason, subject string }

func (e event) key() seriesKey { return seriesKey{e.Reason, e.Subject} }

type series struct {
	eventWrite
	written time.Time // zero: never
	pending bool
	tries   int
}

func newRecorder(write func(context.Context, eventWrite) (string, error), count func(ok bool), hide func(string) string, logger *slog.Logger) *recorder {
	return &recorder{write: write, wake: make(chan struct{}, 1), count: count, hide: hide, logger: logger, series: map[seriesKey]*series{}}
}

// regarding tells which Node object the events are about. Nothing is written
// before that is known.
func (r *recorder) regarding(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodeUID = uid
	r.poke()
}

func (r *recorder) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// record takes an event to be written; it never waits.
func (r *recorder) record(e event) {
	note := e.Note
	if e.Subject != "" {
		note = e.Subject + ": " + note
	}
	e.Note = truncateBytes(oneLine(r.hide(note), maxNote), maxNote)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.series[e.key()]
	if s != nil {
		age := now.Sub(s.First)
		if age > seriesEnd || (s.Note != e.Note && age >= seriesEvery) {
			s = nil
		}
	}
	if s == nil {
		r.forget(now)
		s = &series{eventWrite: eventWrite{event: e, First: now}}
		r.series[e.key()] = s
	}
	s.Count++
	s.Last, s.pending, s.tries = now, true, 0
	r.poke()
}

// forget makes room for one more series: those that have ended go, and if
// there are still too many, the one that has been quiet for longest.
func (r *recorder) forget(now time.Time) {
	for k, s := range r.series {
		if now.Sub(s.First) > seriesEnd {
			delete(r.series, k)
		}
	}
	for len(r.series) >= maxSeries {
		var oldest *series
		for _, s := range r.series {
			if oldest == nil || s.Last.Before(oldest.Last) {
				oldest = s
			}
		}
		delete(r.series, oldest.key())
	}
}

// run writes until ctx ends.
func (r *recorder) run(ctx context.Context, timeout func() time.Duration) {
	timer := time.NewTimer(seriesEvery)
	defer timer.Stop()
	for {
		s, next := r.next(time.Now())
		if s == nil {
			timer.Reset(next)
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
			case <-timer.C:
			}
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, timeout())
		name, err := r.write(callCtx, *s)
		cancel()
		if ctx.Err() != nil {
			return
		}
		r.count(err == nil)
		r.wrote(*s, name, err)
	}
}

// next is the write that is due first, or how long there is none.
func (r *recorder) next(now time.Time) (*eventWrite, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var due *series
	wait := seriesEvery
	for _, s := range r.series {
		if !s.pending || r.nodeUID == "" {
			continue
		}
		if left := seriesEvery - now.Sub(s.written); !s.written.IsZero() && left > 0 {
			wait = min(wait, left)
			continue
		}
		if due == nil || s.First.Before(due.First) {
			due = s
		}
	}
	if due == nil {
		return nil, wait
	}
	w := due.eventWrite
	w.NodeUID = r.nodeUID
	return &w, 0
}

func (r *recorder) wrote(w eventWrite, name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.series[w.key()]
	if !ok || s.event != w.event || !s.First.Equal(w.First) {
		return // another series has taken its place
	}
	s.written = time.Now() // also after a failure: the next try is not at once
	if err == nil {
		s.Name, s.tries = name, 0
		s.pending = s.Count > w.Count
		return
	}
	s.tries++
	s.pending = s.tries < eventTries
	r.logger.Warn("write event", "reason", w.Reason, "try", s.tries, "error", errText(err))
}
