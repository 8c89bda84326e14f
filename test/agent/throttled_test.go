package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/cluster"
)

// A Hub whose quota is used up holds neither the node's places nor other sources, its
// models are not called failed, and a fleet tells it in one event.
func testThrottled(t *testing.T, c *cluster.Cluster) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{Quota: fetchertest.Quota{API: 1, Window: 20 * time.Minute}})
	for _, id := range []string{"org/one", "org/two"} {
		if _, err := hub.Push(t.Context(), id, "main", fetchertest.Tree{"config.json": fetchertest.Bytes([]byte("{}"))}); err != nil {
			t.Fatal(err)
		}
	}
	first := newBench(t, c)
	second := newBenchWithoutNode(t, c, nodeOf(t)+"-too")
	second.addNode()
	for i, b := range []*bench{first, second} {
		b.list(
			fmt.Sprintf("{name: one, source: 'hf://org/one', endpoint: '%s', priority: 9}", hub.URL()),
			fmt.Sprintf("{name: two, source: 'hf://org/two', endpoint: '%s', priority: 9}", hub.URL()),
			fmt.Sprintf("{name: here, source: '%s'}", b.model("here", uint64(i))),
		)
		b.start()
	}
	for _, b := range []*bench{first, second} {
		b.waitLabel(agent.WarmPrefix+"here", "disk")
		b.wait("the reasons", func(*corev1.Node) bool {
			return strings.Contains(b.modelStatus("one").Reason, "is used up until") && strings.Contains(b.modelStatus("two").Reason, "is used up until")
		})
		if m := b.modelStatus("one"); m.State != agent.StateQueued || m.Code != "" || m.Next == nil || m.Hint == "" {
			t.Errorf("the annotation says %+v", m)
		}
	}
	if n := len(hub.Requests(fetchertest.Match{})); n > 6 {
		t.Errorf("the Hub was asked %d times", n)
	}
	var told []string
	waited := func() bool {
		events, err := first.client.EventsV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		told = nil
		for _, e := range events.Items {
			if e.Reason == agent.EventSourceThrottled {
				told = append(told, e.Regarding.Kind+" "+e.Regarding.Name+": "+e.Note)
			}
		}
		return len(told) > 0
	}
	first.wait("the event", func(*corev1.Node) bool { return waited() })
	if len(told) != 1 || !strings.HasPrefix(told[0], "Namespace default: the quota of API calls at 127.0.0.1:") {
		t.Errorf("the events are %q", told)
	}
	for _, b := range []*bench{first, second} {
		if text := b.log.String(); strings.Contains(text, "write event") {
			t.Errorf("an event could not be written:\n%s", text)
		}
	}
}
