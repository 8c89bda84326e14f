package agent

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/test/cluster"
)

// A source that sends headers and nothing else holds the node's only place for pulls no
// longer than a request may go on without progress: another model, of lower priority,
// gets it while the first one waits to be tried again.
func testStarved(t *testing.T, c *cluster.Cluster) {
	for name, answer := range map[string]string{
		"headers and nothing else": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
		"no answer":                "",
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			b := newBench(t, c)
			b.attempts, b.patience = 1000, time.Second // the patience decides
			b.bounds = httpsource.Bounds{Header: 300 * time.Millisecond, Silence: 300 * time.Millisecond}
			silent, asked := hangAfter(t, answer)
			b.config(fmt.Sprintf("models: [{name: stuck, source: 'hf://org/stuck', endpoint: 'http://%s', priority: 10}, {name: fine, source: '%s'}]\n"+
				"pull: {concurrentModels: 1}%s", silent, b.model("fine", 1), intervals))
			b.start()
			b.waitLabel(agent.WarmPrefix+"fine", "disk")
			if asked() == 0 {
				t.Error("the model of higher priority was not tried first")
			}
			b.wait("the other one to say what hangs", func(*corev1.Node) bool {
				m := b.modelStatus("stuck")
				return m.State != agent.StateWarm && strings.Contains(m.Reason, "sent no") && m.Hint != ""
			})
			// It is tried again and again, and goes on to leave the place to others.
			before := asked()
			b.wait("another try", func(*corev1.Node) bool { return asked() > before })
			b.config(fmt.Sprintf("models: [{name: stuck, source: 'hf://org/stuck', endpoint: 'http://%s', priority: 10}, {name: later, source: '%s'}]\n"+
				"pull: {concurrentModels: 1}%s", silent, b.model("later", 2), intervals))
			b.waitLabel(agent.WarmPrefix+"later", "disk")
		})
	}
}

// Several such sources ahead of it in the list hold a model of their own priority up for
// one try each.
func testStarvedBySeveral(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.attempts, b.patience = 1000, time.Second
	b.bounds = httpsource.Bounds{Header: 300 * time.Millisecond, Silence: 300 * time.Millisecond}
	silent, asked := hangAfter(t, "")
	var list []string
	for i := range 4 {
		list = append(list, fmt.Sprintf("{name: stuck%d, source: 'hf://org/stuck%d', endpoint: 'http://%s'}", i, i, silent))
	}
	list = append(list, fmt.Sprintf("{name: fine, source: '%s'}", b.model("fine", 1)))
	b.config(fmt.Sprintf("models: [%s]\npull: {concurrentModels: 1}%s", strings.Join(list, ", "), intervals))
	b.start()
	b.waitLabel(agent.WarmPrefix+"fine", "disk")
	if asked() == 0 {
		t.Error("those ahead in the list were not tried first")
	}
	tried := map[string]bool{}
	b.wait("each of the others to be tried", func(*corev1.Node) bool {
		for i := range 4 {
			m := b.modelStatus(fmt.Sprintf("stuck%d", i))
			tried[m.Name] = tried[m.Name] || strings.Contains(m.Reason, "sent no")
		}
		return len(tried) == 4 && !slices.Contains(slices.Collect(maps.Values(tried)), false)
	})
}

// hangAfter is a server that sends this after each request, and nothing more until the
// client has gone; asked counts requests.
func hangAfter(t *testing.T, answer string) (addr string, asked func() int64) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		group.Wait()
	})
	var count atomic.Int64
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				from := bufio.NewReader(conn)
				if _, err := http.ReadRequest(from); err != nil {
					return
				}
				count.Add(1)
				_, _ = io.WriteString(conn, answer)
				_, _ = from.ReadByte() // there is none until the client has gone
			})
		}
	})
	return listener.Addr().String(), count.Load
}
