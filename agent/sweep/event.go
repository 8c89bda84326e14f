package sweep

import (
	"cmp"
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent"
)

// Reasons of the events on Nodes.
const (
	// EventLabelsWithdrawn: the node's labels were taken back.
	EventLabelsWithdrawn = "LabelsWithdrawn"
	// EventLabelsReturned: they came back, and still no ready agent was there.
	EventLabelsReturned = "LabelsReturned"
	// EventAgentsMissing: so many nodes have no ready agent that labels are
	// taken back slowly. It is about the node whose turn is next.
	EventAgentsMissing = "AgentsMissing"
)

const (
	// eventNamespace is where events of objects without a namespace live.
	eventNamespace = metav1.NamespaceDefault
	// maxEvents bounds those that wait, eventTries how often one is tried: what
	// they say is logged as well.
	maxEvents  = 100
	eventTries = 5
)

// event is a line in `kubectl describe node`.
type event struct {
	Reason string
	Action string
	// Node and NodeUID are what it is about: an object without a namespace, of the Kind
	// Node where Kind is empty.
	Kind    string
	Node    string
	NodeUID types.UID
	Note    string
	Warning bool
	Time    time.Time
	tries   int
}

func (k *kube) event(ctx context.Context, e event) error {
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	_, err := k.events.Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: strings.TrimRight(e.Node[:min(len(e.Node), 200)], ".-") + ".stoker-", Namespace: eventNamespace,
		},
		EventTime:           metav1.NewMicroTime(e.Time),
		ReportingController: agent.Domain + "/sweeper",
		ReportingInstance:   fieldManager,
		Action:              e.Action,
		Reason:              e.Reason,
		Regarding:           corev1.ObjectReference{APIVersion: "v1", Kind: cmp.Or(e.Kind, "Node"), Name: e.Node, UID: e.NodeUID},
		Note:                e.Note,
		Type:                kind,
	}, metav1.CreateOptions{FieldManager: fieldManager})
	return err
}

// tell queues an event.
func (s *Sweeper) tell(e event) {
	if len(s.events) >= maxEvents {
		s.events = s.events[1:]
	}
	s.events = append(s.events, e)
}

// writeEvents writes what is queued. The first that fails ends the round's
// tries, so that an API server that is away costs one bound.
func (s *Sweeper) writeEvents(ctx context.Context) {
	for len(s.events) > 0 && ctx.Err() == nil {
		e := &s.events[0]
		err := s.call(ctx, func(ctx context.Context) error { return s.cluster.event(ctx, *e) })
		if err == nil {
			s.events = s.events[1:]
			continue
		}
		e.tries++
		s.logger.Warn("write event", "reason", e.Reason, "node", e.Node, "try", e.tries, "error", err)
		if e.tries >= eventTries {
			s.events = s.events[1:]
		}
		return
	}
}
