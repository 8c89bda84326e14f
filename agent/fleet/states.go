package fleet

import (
	"fmt"
	"strings"

	"github.com/stoker-project/stoker/agent"
)

// byState is a model of which the agent has said something.
func (x *explainer) byState() advice {
	m := x.m
	switch m.State {
	case agent.StateWarm:
		return x.warm()
	case agent.StateUpdating:
		return x.updating()
	case agent.StatePulling:
		how := "its files are being listed"
		if p := m.progress(); p != "" {
			how = p
		}
		return advice{
			fmt.Sprintf("%s is being pulled to %s: %s%s", x.name, x.n.Name, how, x.because()),
			"wait: the label is written within seconds once every file is verified", "",
		}
	case agent.StateVerifying:
		how := ""
		if p := m.progress(); p != "" {
			how = ": " + p
		}
		return advice{
			fmt.Sprintf("the files of %s on %s are being verified%s%s", x.name, x.n.Name, how, x.because()),
			"wait: the label is written within seconds once every file is verified", "",
		}
	case agent.StateQueued:
		return x.queued()
	case agent.StateEvicting:
		return x.evicting()
	case agent.StateFailed:
		return x.failed()
	case agent.StateSkipped:
		return x.skipped()
	case agent.StateAbsent:
		return advice{
			fmt.Sprintf("the agent on %s does not know yet whether %s is there%s", x.n.Name, x.name, x.because()),
			"wait a moment; if it stays so, look at the node's disk and the agent's log", x.n.agentPods(),
		}
	}
	return advice{
		fmt.Sprintf("the agent on %s calls %s %q, a state that this stoker does not know%s", x.n.Name, x.name, m.State, x.because()),
		fmt.Sprintf("use a stoker of the agent's version (%s)", or(x.n.AgentVersion, "not said")), "",
	}
}

// because is the reason as the end of a sentence.
func (x *explainer) because() string {
	if x.m.Reason == "" {
		return ""
	}
	return "; " + x.m.Reason
}

func (x *explainer) revision() string {
	text := "revision " + or(short(x.m.Revision), "not said")
	if x.m.Bytes > 0 {
		text += " (" + size(x.m.Bytes) + ")"
	}
	return text
}

func (x *explainer) warm() advice {
	a := advice{do: nothing}
	where := "in its tier " + x.m.Tier
	switch x.m.Tier {
	case agent.TierShared:
		where = "on the volume that nodes share"
	case agent.TierDisk:
		where = "on its disk"
	case agent.TierRAM:
		where = "on its disk and in its memory"
	}
	a.why = fmt.Sprintf("%s is warm on %s: %s is %s, and every file of it was verified", x.name, x.n.Name, x.revision(), where)
	if x.m.Omitted {
		return x.warmByLabel(a)
	}
	fits, no := x.n.fitsAdvice(x.m)
	switch {
	case x.n.Ready != "True":
		a.why += "; but " + x.n.notReady() + ", so no pod is placed there"
		a.do, a.run = "bring the node back", "kubectl describe node "+x.n.Name
	case x.m.Reason != "":
		a.why += "; but " + x.m.Reason
		a.do, a.run = x.remedy(lookAtLog), x.log()
	case x.n.Cordoned:
		a.why += "; but it is cordoned, so no pod is placed there"
		a.do, a.run = "let pods on it again, if it is well", "kubectl uncordon "+x.n.Name
	case no && x.m.Fits == nil:
		a.why += "; how many replicas fit is not known, because " + fits.why
		a.do, a.run = fits.do, fits.run
	case no && x.m.Tight > 0:
		a.why += "; whether a replica could start now is not certain: " + fits.why
		a.do, a.run = fits.do, fits.run
	case no:
		a.why += "; but no replica could start now: " + fits.why
		a.do, a.run = fits.do, fits.run
	case x.m.NotInRAM != "":
		a.why += "; but it is not all in memory: " + x.m.NotInRAM
		a.do = remember(x.m.RAM)
	default:
		a.do = fmt.Sprintf("%s: %s could start here now", nothing, count(*x.m.Fits, "replica"))
	}
	return a
}

// warmByLabel is a model for which the annotation had no room: its labels are true,
// and say no more.
func (x *explainer) warmByLabel(a advice) advice {
	switch {
	case x.n.Ready != "True":
		a.why += "; but " + x.n.notReady() + ", so no pod is placed there"
		a.do, a.run = "bring the node back", "kubectl describe node "+x.n.Name
		return a
	case x.n.Cordoned:
		a.why += "; but it is cordoned, so no pod is placed there"
		a.do, a.run = "let pods on it again, if it is well", "kubectl uncordon "+x.n.Name
		return a
	}
	a.why += "; its labels say so, and the node's annotation has no room for more of it"
	switch {
	case x.m.Fits == nil:
		a.do = nothing + ": how many replicas fit is not known; for the reason, " + x.n.readMore()
	case *x.m.Fits > 0:
		a.do = fmt.Sprintf("%s: %s could start here now", nothing, count(*x.m.Fits, "replica"))
	default:
		a.why += "; but no replica could start now"
		a.do = "for the reason, " + x.n.readMore()
	}
	return a
}

// remember is what to do about a model that is not in memory.
func remember(state string) string {
	switch state {
	case agent.RAMOverBudget:
		return "raise agent.ram.budget, or give it a higher priority than what is in memory"
	case agent.RAMOverPods:
		return "let pods on the node ask for less memory, or have fewer models in memory there"
	case agent.RAMOverUse:
		return "see what uses the node's memory, or have fewer models in memory there"
	case agent.RAMOverLimit:
		return "raise the agent's memory limit; the chart adds agent.ram.budget to resources.limits.memory"
	case agent.RAMUnmeasurable:
		return "put the store on a file system whose page cache the kernel tells of (Linux 6.5 tells more), or take ram off its list entry"
	case agent.RAMLeaves:
		return "see what uses the node's memory, or lower agent.ram.budget"
	}
	return "wait: the label says so within seconds once it is there"
}

func (x *explainer) updating() advice {
	warm := fmt.Sprintf("%s is warm on %s at %s", x.name, x.n.Name, x.revision())
	switch p := x.m.progress(); {
	case p != "":
		return advice{warm + ", and what the list asks for now is being pulled beside it: " + p + x.because(), nothing + ": pods get the old revision until the new one is verified and published", ""}
	case x.m.NextAttempt != nil || x.m.Hint != "":
		return advice{warm + ", but bringing it up to date failed" + x.colon(), x.remedy(lookAtLog), x.log()}
	}
	return advice{warm + ", and what the list asks for now waits to be pulled beside it" + x.because(), nothing + ": pods get the old revision until the new one is verified and published", ""}
}

func (x *explainer) colon() string {
	if x.m.Reason == "" {
		return ""
	}
	return ": " + x.m.Reason
}

const lookAtLog = "look at the agent's log"

// log is the command that finds the agent, where its hint says nothing else.
func (x *explainer) log() string {
	if x.m.Hint != "" {
		return ""
	}
	return x.n.agentPods()
}

// remedy is the agent's hint, or else, and when the agent tries again.
func (x *explainer) remedy(otherwise string) string {
	text := or(strings.TrimRight(x.m.Hint, "."), otherwise)
	if x.m.NextAttempt == nil {
		return text
	}
	if wait := x.m.NextAttempt.Sub(x.now); wait > 0 {
		return text + "; the agent tries again in " + span(wait) + ", and at once when the list or its credentials change"
	}
	return text + "; the agent is about to try again"
}

func (x *explainer) queued() advice {
	var running []string
	for _, m := range x.n.Models {
		if m.State == agent.StatePulling || m.State == agent.StateVerifying || (m.State == agent.StateUpdating && m.TotalBytes > 0) {
			running = append(running, m.Name)
		}
	}
	if x.m.NextAttempt != nil && x.m.Hint != "" { // what it waits for is no place of its own
		do := or(strings.TrimRight(x.m.Hint, "."), "wait")
		if wait := x.m.NextAttempt.Sub(x.now); wait > 0 {
			do += "; the agent asks again in " + span(wait)
		}
		return advice{fmt.Sprintf("%s is wanted on %s and waits%s", x.name, x.n.Name, x.colon()), do, ""}
	}
	why := fmt.Sprintf("%s is wanted on %s and waits for its turn%s", x.name, x.n.Name, x.because())
	if len(running) == 0 && x.m.Reason != "" {
		return advice{why, "wait: its turn comes by itself", ""}
	}
	if len(running) == 0 {
		return advice{why, "wait: the pull starts in a moment", ""}
	}
	return advice{
		why + fmt.Sprintf("; %s being pulled there", someAre(running)),
		"wait, or raise priority of its list entry: what pods there wait for is pulled first, then what has the highest priority", "",
	}
}

func someAre(names []string) string {
	if len(names) == 1 {
		return names[0] + " is"
	}
	if n := len(names); n <= 3 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1] + " are"
	}
	return someNames(names, 3) + " are"
}

func (x *explainer) evicting() advice {
	why := fmt.Sprintf("%s is being taken off %s%s", x.name, x.n.Name, x.colon())
	if x.m.Hint != "" {
		return advice{why, x.remedy(lookAtLog), x.log()}
	}
	do := nothing + ", if that is meant; else give it a list entry whose nodeSelector this node matches, with a higher priority if it makes room for another"
	if x.m.NextAttempt != nil {
		if wait := x.m.NextAttempt.Sub(x.now); wait > 0 {
			do += " (its files are removed in " + span(wait) + ")"
		}
	}
	return advice{why, do, ""}
}

func (x *explainer) failed() advice {
	why := fmt.Sprintf("%s is not warm on %s%s", x.name, x.n.Name, x.colon())
	if x.m.NextAttempt != nil {
		why = fmt.Sprintf("the last attempt to bring %s to %s failed%s", x.name, x.n.Name, x.colon())
	}
	return advice{why, x.remedy(lookAtLog), x.log()}
}

func (x *explainer) skipped() advice {
	why := fmt.Sprintf("%s is not held on %s%s", x.name, x.n.Name, x.colon())
	if x.m.Wanted || x.m.Code != "" {
		return advice{why, x.remedy("free some space on the node, or take a model off its list"), ""}
	}
	return advice{why, nothing + fmt.Sprintf(", if that is meant; else change the list entry's nodeSelector or the node's labels, or place a pod with the label %s=%s there, and the agent pulls it all the same",
		agent.ModelLabel, x.name), ""}
}
