package fleet

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/agent"
)

// TestStatusHasAnEnd: whatever a Node says, the tables for people stay a few screens.
func TestStatusHasAnEnd(t *testing.T) {
	t.Parallel()
	manyModels := func(n int, change func(i int, m *agent.ModelStatus)) corev1.Node {
		var models []agent.ModelStatus
		for i := range n {
			m := agent.ModelStatus{Name: fmt.Sprintf("m%d", i), State: agent.StateFailed, Wanted: true, Reason: fmt.Sprint(i)}
			change(i, &m)
			models = append(models, m)
		}
		return speaking(t, "gpu-1", word(time.Minute, models...))
	}
	var kinds, states []corev1.Node
	for i := range 500 {
		s := word(time.Minute, coldModel("llama", agent.State(fmt.Sprintf("state-%d", i))))
		states = append(states, speaking(t, fmt.Sprintf("gpu-%d", i), s))
		s.GPUs.Name = fmt.Sprint(i)
		kinds = append(kinds, speaking(t, fmt.Sprintf("gpu-%d", i), s))
	}
	for name, nodes := range map[string][]corev1.Node{
		"models that failed":    {manyModels(20_000, func(int, *agent.ModelStatus) {})},
		"models in no need":     {manyModels(2_000, func(_ int, m *agent.ModelStatus) { m.Wanted, m.Reason = false, "" })},
		"models without labels": {manyModels(2_000, func(_ int, m *agent.ModelStatus) { m.Tier, m.Revision, m.State = "disk", revA, agent.StateWarm })},
		"kinds of GPUs":         kinds,
		"states":                states,
		"long texts of one model": {manyModels(1, func(_ int, m *agent.ModelStatus) {
			m.Reason, m.Source = strings.Repeat("x", 1<<18), strings.Repeat("y", 1<<18)
		})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range nodes {
				for key := range nodes[i].Labels {
					if strings.HasPrefix(key, agent.WarmPrefix) {
						delete(nodes[i].Labels, key)
					}
				}
			}
			text := render(t, Read(nodes, now), View{})
			if lines := strings.Count(text, "\n"); lines > 4*mostRows {
				t.Errorf("%d lines:\n%.2000s", lines, text)
			}
			for line := range strings.Lines(text) {
				if len(line) > 2000 {
					t.Errorf("a line of %d bytes: %.200s", len(line), line)
				}
			}
		})
	}
}

// TestModelsAreSummedUp: those that fewest nodes lack are counted in one row, and
// --wide lists them.
func TestModelsAreSummedUp(t *testing.T) {
	t.Parallel()
	var models []agent.ModelStatus
	for i := range 50 {
		m := warmModel(fmt.Sprintf("m%02d", i), 1)
		if i == 49 {
			m = coldModel("m49", agent.StateFailed)
		}
		models = append(models, m)
	}
	f := Read([]corev1.Node{speaking(t, "gpu-1", word(time.Minute, models...))}, now)
	text := render(t, f, View{})
	for _, want := range []string{"\n10 more models  10 of 10", "10           0     150.0 GiB", "--wide lists them", "\nm00 ", "\nm49 "} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if text := render(t, f, View{Wide: true}); strings.Contains(text, "more models") || !strings.Contains(text, "\nm48 ") {
		t.Error(text)
	}
}

// TestJSONIsExact: programs get what a Node says as it says it.
func TestJSONIsExact(t *testing.T) {
	t.Parallel()
	evil := "\x1b[2J\n\u202eNODE\u200b"
	m := coldModel("llama", agent.StateFailed)
	m.Reason = evil
	text, err := json.Marshal(Read([]corev1.Node{speaking(t, "gpu-1", word(0, m))}, now))
	if err != nil {
		t.Fatal(err)
	}
	var got Fleet
	if err := json.Unmarshal(text, &got); err != nil || got.Nodes[0].Models[0].Reason != evil {
		t.Errorf("%q, %v", text, err)
	}
}

// TestLinesAreOurs: no text of a Node begins a line.
func TestLinesAreOurs(t *testing.T) {
	t.Parallel()
	evil := "x\nNODE-that-is-not\r\n\vNODE-that-is-not"
	m := coldModel("llama", agent.StateFailed)
	m.Reason, m.Hint, m.Source, m.Tier, m.Revision = evil, evil, evil, evil, revA
	s := word(0, m)
	s.Agent, s.GPUs.Name, s.List.Rejected, s.Store.Reason = evil, evil, evil, evil
	f := Read([]corev1.Node{speaking(t, "gpu-1", s)}, now)
	e, err := f.Explain("gpu-1", "llama")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := e.Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{render(t, f, View{}), render(t, f, View{Wide: true}), b.String()} {
		if strings.Contains(text, "\nNODE-") || strings.ContainsAny(text, "\r\v") {
			t.Errorf("%s", text)
		}
	}
}

// TestCommandsAreInert: what explain gives to be run holds nothing that a Node put there.
func TestCommandsAreInert(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"hf://Org/llama@main":      "stoker fit hf://Org/llama@main",
		"hf://Org/llama;id":        "stoker fit llama",
		"s3://bucket/$(id)":        "stoker fit llama",
		"s3://bucket/a b":          "stoker fit llama",
		"s3://bucket/`id`":         "stoker fit llama",
		"--store=/x":               "stoker fit llama",
		"":                         "stoker fit llama",
		"s3://bucket/\u202emodels": "stoker fit llama",
	} {
		m := warmModel("llama", 1)
		m.Source, m.Fits, m.Need = source, nil, nil
		e, err := Read([]corev1.Node{speaking(t, "gpu-1", word(0, m))}, now).Explain("gpu-1", "llama")
		if err != nil {
			t.Fatal(err)
		}
		if e.Run != want {
			t.Errorf("%q: %q; want %q", source, e.Run, want)
		}
	}
}
