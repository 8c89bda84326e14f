package fleet

import (
	"fmt"
	"strings"
	"time"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
)

// Explanation is why one model is warm or not on one node. As JSON it is the
// output of `stoker explain -o json`.
type Explanation struct {
	Node  string `json:"node"`
	Model string `json:"model"`
	// Warm is true if label and annotation both say so.
	Warm bool `json:"warm"`
	// Why and Do are one sentence each; Run is a command that does it or shows
	// more, empty where there is none.
	Why string `json:"why"`
	Do  string `json:"do"`
	Run string `json:"run,omitempty"`
	// Facts are what Why was made of, in words, most telling first.
	Facts []Fact `json:"facts"`
	// On is what the node says of the model, nil: nothing; Of what it says of
	// itself, without other models.
	On *ModelOnNode `json:"modelOnNode"`
	Of Node         `json:"nodeStatus"`
}

// Fact is one thing that is known.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Explain says why the model is or is not warm on the node. The error is an
// [UnknownError], for a node that there is not, or a model that no node knows
// though this one's word is whole.
func (f *Fleet) Explain(node, model string) (*Explanation, error) {
	n, err := f.node(node)
	if err != nil {
		return nil, err
	}
	on := n.model(model)
	if on == nil && n.readable() && n.OmittedModels == 0 {
		if err := f.checkModel(model); err != nil {
			return nil, err
		}
	}
	if on == nil && !n.readable() && len(f.knownModels()) > 0 {
		// A typing mistake is more likely than a model that only this node has.
		if err := f.checkModel(model); err != nil {
			return nil, err
		}
	}
	if err := fetcher.CheckName(model); err != nil {
		return nil, err
	}
	e := &Explanation{Node: node, Model: model, On: on, Of: *n}
	e.Of.Models = []ModelOnNode{}
	x := explainer{n: n, name: model, now: f.Time, others: f}
	if on != nil {
		x.m, e.Warm = *on, on.Warm
	}
	a := x.explain(on != nil)
	e.Why, e.Do, e.Run = sentence(a.why, model, node), sentence(a.do, model, node), a.run
	e.Facts = x.facts(on != nil)
	return e, nil
}

type explainer struct {
	n      *Node
	m      ModelOnNode
	name   string
	now    time.Time
	others *Fleet
}

const nothing = "nothing"

func (x *explainer) explain(named bool) advice {
	n := x.n
	switch n.Word {
	case WordNone:
		return advice{
			fmt.Sprintf("%s is not warm on %s, because no Stoker agent says anything there: the Node has neither its labels nor its annotation%s", x.name, n.Name, x.unready()),
			n.findAgent(), n.agentPods(),
		}
	case WordLabelsOnly:
		return x.labelsOnly(named)
	case WordUnreadable:
		return x.unreadable(named)
	case WordWithdrawn:
		last := "did not name the model"
		if named {
			last = "was " + or(string(x.m.State), "no state")
		}
		return advice{
			fmt.Sprintf("%s is not warm on %s: all labels there were withdrawn, as for a node whose agent is gone; the last word of its agent, %s, %s%s", x.name, n.Name, x.saidAgo(), last, x.unready()),
			"bring the agent back, and it writes them again within a minute: " + n.findAgent(), n.agentPods(),
		}
	case WordSaid, WordNewer:
	}
	if !named || !x.m.said && !x.m.Omitted && len(x.m.Disagreements) == 0 {
		return x.unnamed()
	}
	if len(x.m.Disagreements) > 0 {
		return x.disagree()
	}
	a := x.byState()
	if text := x.m.overdue(x.now, x.age(), n.progressSilence()); text != "" {
		a.do, a.run = "see whether the agent lives, for "+text, n.agentPods()
	}
	if !x.m.Warm {
		a.why += x.unready()
	}
	return a
}

// age is how old the word is; 0 where that is not known.
func (x *explainer) age() time.Duration {
	if x.n.SaidAt == nil {
		return 0
	}
	return x.now.Sub(*x.n.SaidAt)
}

// saidAgo is when the word was said, in words.
func (x *explainer) saidAgo() string {
	if x.n.SaidAt == nil {
		return "at a time that is not known"
	}
	return span(x.age()) + " ago"
}

// unready is what to add where no agent may be running.
func (x *explainer) unready() string {
	if x.n.Ready == "True" {
		return ""
	}
	return ", and " + x.n.notReady() + ", so an agent there may not be running"
}

func (x *explainer) labelsOnly(named bool) advice {
	key := agent.WarmPrefix + x.name
	if named && x.m.Label != "" {
		return advice{
			fmt.Sprintf("the label %s=%s stands on %s%s, but no agent's annotation is behind it, so nobody vouches for it: it was set by hand or left behind", key, x.m.Label, x.n.Name, x.n.setBy(key)),
			"take it away, if no agent runs there; if one should, " + x.n.findAgent(), x.unlabel(key),
		}
	}
	return advice{
		fmt.Sprintf("%s is not warm on %s, because no agent says anything there: there is %s without an annotation%s", x.name, x.n.Name, x.n.labelsText(), x.unready()),
		x.n.findAgent(), x.n.agentPods(),
	}
}

// unlabel takes a label away.
func (x *explainer) unlabel(key string) string {
	return "kubectl label node " + x.n.Name + " " + key + "-"
}

func (x *explainer) unreadable(named bool) advice {
	label := "there is no label " + agent.WarmPrefix + x.name
	if named && x.m.Label != "" {
		label = fmt.Sprintf("the label %s=%s stands", agent.WarmPrefix+x.name, x.m.Label)
	}
	return advice{
		fmt.Sprintf("what the agent on %s says of %s is not known, because its annotation cannot be read (%s); %s", x.n.Name, x.name, x.n.WordError, label),
		"see whether an agent runs there: it would write the annotation anew within a minute, so this one is somebody else's or it has no agent", x.n.agentPods(),
	}
}

// unnamed is a model that the node's word does not have.
func (x *explainer) unnamed() advice {
	n := x.n
	switch {
	case n.List.Rejected != "":
		return advice{
			fmt.Sprintf("the agent on %s does not know %s, because it rejected the model list on file and keeps to an older one: %s", n.Name, x.name, n.List.Rejected),
			"correct the model list", "kubectl events -n default --for node/" + n.Name,
		}
	case n.OmittedModels > 0:
		return advice{
			fmt.Sprintf("%s is not warm on %s, and why is not known, because %s", x.name, n.Name, n.omittedText()),
			n.readMore(), n.agentPods(),
		}
	}
	return advice{
		fmt.Sprintf("%s is not warm on %s, because the model list of its agent did not have it when it last spoke, %s%s", x.name, n.Name, x.saidAgo(), x.unready()),
		"if it was listed only now, wait two minutes: a changed ConfigMap takes so long to reach the node; else see that the agent lives", n.agentPods(),
	}
}

// readMore is how to learn of models that were left out.
func (n *Node) readMore() string {
	if l, ok := agent.ParseStatusLease(n.More); ok {
		return "use an account that may get and list leases in the namespace " + l.Namespace + "; if yours may, look at the agent's log"
	}
	return "look at the agent's metrics or its log"
}

// disagree is a model whose labels contradict the annotation.
func (x *explainer) disagree() advice {
	what := strings.Join(x.m.Disagreements, "; ")
	if x.m.said && x.m.Reason != "" {
		what += "; the agent's reason is: " + x.m.Reason
	}
	a := advice{
		fmt.Sprintf("labels and annotation of %s disagree about %s: %s", x.n.Name, x.name, what),
		"see whether its agent lives, which would have put the labels right within a minute", x.n.agentPods(),
	}
	if x.m.Tier == "" || !x.m.said {
		a.do += "; take a label away that nobody vouches for with kubectl label"
	}
	return a
}
