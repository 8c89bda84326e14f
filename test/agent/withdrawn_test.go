package agent

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/sweep"
	"github.com/stoker-project/stoker/test/cluster"
)

// An agent that lives writes again what somebody took back in its absence.
func testWithdrawn(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.list(fmt.Sprintf("{name: kept, source: '%s'}", b.model("kept", 1)))
	b.start()
	b.waitLabel(agent.WarmPrefix+"kept", "disk")
	b.waitLabel(agent.FitsPrefix+"kept", "8")
	before := b.labels()
	b.stop()
	withdraw := func() {
		t.Helper()
		removed, err := sweep.Unlabel(t.Context(), sweep.UnlabelOptions{Kube: c.RESTConfig(), Nodes: []string{b.node}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil || len(removed) != 1 || removed[0].Err != nil || len(removed[0].Keys) != 6 {
			t.Fatalf("removed %+v, %v", removed, err)
		}
	}
	back := func() {
		t.Helper()
		for key, value := range before {
			b.waitLabel(key, value)
		}
		if m := b.modelStatus("kept"); m.State != agent.StateWarm {
			t.Errorf("the annotation says %+v", m)
		}
	}
	withdraw()
	b.start()
	back()
	withdraw() // also while it runs
	back()
}
