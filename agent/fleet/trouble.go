package fleet

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/agent"
)

const (
	// progressSilence is how old a word may be that says that bytes come in:
	// progress is written every 30 s by default.
	progressSilence = 5 * time.Minute
	// lateness is how long ago an announced attempt may be without a word of
	// how it went.
	lateness = 5 * time.Minute
)

// findTroubles names what somebody should look at.
func (n *Node) findTroubles(now time.Time) {
	say := func(code, format string, args ...any) {
		n.Troubles = append(n.Troubles, Trouble{Code: code, Text: fmt.Sprintf(format, args...)})
	}
	if n.Ready != string(corev1.ConditionTrue) {
		say(TroubleNotReady, "%s", n.notReady())
	}
	switch n.Word {
	case WordNone:
		say(TroubleNoAgent, "no agent has said anything: there are neither labels nor an annotation of Stoker's")
	case WordLabelsOnly:
		say(TroubleLabelsOnly, "%s without an annotation of an agent: set by somebody else, or left behind", n.labelsText())
	case WordWithdrawn:
		say(TroubleWithdrawn, "the annotation is there, but all labels are gone: they were withdrawn, as for a node whose agent is gone")
	case WordUnreadable:
		say(TroubleUnreadable, "the annotation cannot be read: %s", n.WordError)
	case WordNewer:
		say(TroubleNewer, "the annotation is of version %d and this stoker reads up to %d: what it does not know is left out",
			n.WordVersion, agent.StatusVersion)
	case WordSaid:
	}
	if n.readable() && n.Word != WordWithdrawn {
		for _, text := range n.disagreements() {
			say(TroubleDisagreement, "%s", text)
		}
	}
	if !n.readable() {
		return
	}
	if n.List.Rejected != "" {
		say(TroubleList, "the model list was rejected, an older one is in force: %s", n.List.Rejected)
	}
	switch {
	case !n.Store.Known:
		say(TroubleStore, "the store is not known: %s", or(n.Store.Reason, "the agent does not say why"))
	case n.Store.Reason != "":
		say(TroubleStore, "the store: %s", n.Store.Reason)
	}
	for _, q := range n.Throttled {
		if now.Before(q.Until) {
			say(TroubleThrottled, "the quota of %s at %s is used up until %s", q.Requests, q.Host, q.Until.UTC().Format("15:04 UTC"))
		}
	}
	if !n.GPUs.Known {
		say(TroubleGPUs, "the GPUs are not known: %s", or(n.GPUs.Reason, "the agent does not say why"))
	}
	for _, l := range n.GPUs.Leaks {
		say(TroubleLeak, "%s of memory in use on %s though no pod there has a GPU, for %s", size(l.Bytes), l.device(), span(now.Sub(l.Since)))
	}
	if n.OmittedModels > 0 {
		say(TroubleOmitted, "%s", n.omittedText())
	}
	n.findSilence(now, say)
}

// findSilence finds words that a living agent would have replaced by now.
func (n *Node) findSilence(now time.Time, say func(code, format string, args ...any)) {
	if n.SaidAt == nil {
		return
	}
	age := now.Sub(*n.SaidAt)
	if age < -clockSkew {
		say(TroubleClock, "its clock is %s ahead of this machine's", span(-age))
		return
	}
	for _, m := range n.Models {
		if text := m.overdue(now, age, n.progressSilence()); text != "" {
			say(TroubleSilent, "%s", text)
			return // one is enough: the agent is the same
		}
	}
}

// progressSilence is how old the node's word may be while bytes come in.
func (n *Node) progressSilence() time.Duration {
	return max(progressSilence, 3*seconds(int64(n.ProgressSeconds)))
}

// overdue says what a living agent would have said of the model by now; empty
// if it owes nothing. age is how old the word is, silence how old it may be while bytes
// come in.
func (m ModelOnNode) overdue(now time.Time, age, silence time.Duration) string {
	pulling := m.State == agent.StatePulling || m.State == agent.StateVerifying || (m.State == agent.StateUpdating && m.TotalBytes > 0)
	switch {
	case pulling && age > silence:
		return fmt.Sprintf("nothing was said for %s though %s was being pulled: the pull stands still, or the agent is gone", span(age), m.Name)
	case m.NextAttempt != nil && now.Sub(*m.NextAttempt) > lateness && age > lateness:
		return fmt.Sprintf("nothing was said since %s was due again, %s ago: the agent may be gone", m.Name, span(now.Sub(*m.NextAttempt)))
	}
	return ""
}

// omittedText says what is not known for want of room, and where it is.
func (n *Node) omittedText() string {
	text := plural(n.OmittedModels, "model was", "models were") + " left out of the annotation for want of room; those with a label are warm"
	if n.More == "" {
		return text + ", and of the others the agent's metrics tell"
	}
	return text + ", and " + n.More + " has them all, which this account cannot read or the agent could not write"
}

func (n *Node) notReady() string {
	switch n.Ready {
	case "":
		return "the Node does not say whether it is Ready"
	case string(corev1.ConditionUnknown):
		return "whether the Node is Ready is unknown: " + or(n.ReadyReason, "no reason is given")
	}
	return "the Node is not Ready: " + or(n.ReadyReason, "no reason is given")
}

// disagreements are those of the models and of the labels about GPUs.
func (n *Node) disagreements() []string {
	var out []string
	for _, m := range n.Models {
		out = append(out, m.Disagreements...)
	}
	for _, c := range []struct {
		key  string
		want int
	}{{agent.FreeGiBLabel, int(n.GPUs.FreeBytes >> 30)}, {agent.IdleLabel, n.GPUs.Idle}} {
		have, ok := n.labels[c.key]
		switch {
		case n.Word == WordNewer: // what could not be read contradicts nothing
		case ok && !n.GPUs.Known:
			out = append(out, fmt.Sprintf("label %s=%s stands%s, but the annotation does not know the GPUs", c.key, have, n.setBy(c.key)))
		case !ok && n.GPUs.Known:
			out = append(out, fmt.Sprintf("label %s is missing, but the annotation says %d", c.key, c.want))
		case ok && have != strconv.Itoa(c.want):
			out = append(out, fmt.Sprintf("label %s is %s%s, but the annotation says %d", c.key, or(have, `""`), n.setBy(c.key), c.want))
		}
	}
	return out
}

// labelsText counts the labels of Stoker's, with who set them.
func (n *Node) labelsText() string {
	by := map[string]bool{}
	var who []string
	for key := range n.labels {
		if text := n.setBy(key); text != "" && !by[text] {
			by[text] = true
			who = append(who, text)
		}
	}
	text := plural(n.stokerLabels(), "label", "labels") + " of Stoker's"
	if len(who) == 1 {
		text += who[0]
	}
	return text
}

func (l Leak) device() string {
	if l.MIG != "" {
		return fmt.Sprintf("GPU %d, MIG device %s", l.GPU, l.MIG)
	}
	return fmt.Sprintf("GPU %d", l.GPU)
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
