package sweep

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/agent"
)

// oldServer is an API server that streams no lists: it answers with pages, of which one
// may expire, and with all at once where the watch cache may answer.
type oldServer struct {
	tb    testing.TB
	nodes int
	// head and tail are a Node's metadata before and after its name.
	head, tail string
	expires    int // so many lists expire before their second page

	mu    sync.Mutex
	live  uint64 // the most bytes on the heap before a page, garbage left out
	pages int
}

// fullNode is as much metadata as a Node has with so many warm models, in two parts.
func fullNode(tb testing.TB, models int) (head, tail string) {
	tb.Helper()
	m := metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"},
		ObjectMeta: metav1.ObjectMeta{Name: "NAME", UID: "NAME-uid", ResourceVersion: "7", Labels: map[string]string{}, Annotations: map[string]string{}},
	}
	var fields []string
	for i := range models {
		for _, prefix := range []string{agent.WarmPrefix, agent.RevPrefix, agent.FitsPrefix} {
			key := fmt.Sprintf("%sorganisation-model-%d", prefix, i)
			m.Labels[key] = "0123456789ab"
			fields = append(fields, fmt.Sprintf("%q:{}", "f:"+key))
		}
	}
	m.Annotations[agent.StatusAnnotation] = `{"release": "stoker-system/stoker", "models": "` + strings.Repeat("x", 15<<10) + `"}`
	wrote := metav1.NewTime(time.Unix(1_800_000_000, 0))
	m.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager: agent.FieldManager, Operation: metav1.ManagedFieldsOperationApply, Time: &wrote, FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{` + strings.Join(fields, ",") + `}}}`),
	}}
	text, err := json.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	parts := strings.SplitN(string(text), "NAME", 3)
	if len(parts) != 3 {
		tb.Fatalf("a Node's metadata are %s", text)
	}
	return parts[0], parts[1] + "UID" + parts[2]
}

func (s *oldServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case q.Get("sendInitialEvents") != "":
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,"message":"sendInitialEvents: Forbidden"}`)
	case q.Get("watch") != "":
		w.WriteHeader(http.StatusOK)
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		<-r.Context().Done()
	case strings.HasSuffix(r.URL.Path, "/pods"):
		fmt.Fprint(w, `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[]}`)
	default:
		s.list(w, q.Get("limit"), q.Get("continue"), q.Get("resourceVersion"))
	}
}

func (s *oldServer) list(w http.ResponseWriter, limit, token, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, _ := strconv.Atoi(limit)
	from, _ := strconv.Atoi(token)
	if size == 0 || version == "0" {
		size = s.nodes
	}
	if token != "" && s.expires > 0 {
		s.expires--
		w.WriteHeader(http.StatusGone)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}`)
		return
	}
	s.pages++
	s.live = max(s.live, liveHeap())
	to := min(from+size, s.nodes)
	next := ""
	if to < s.nodes {
		next = strconv.Itoa(to)
	}
	fmt.Fprintf(w, `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"9","continue":%q},"items":[`, next)
	for i := from; i < to; i++ {
		if i > from {
			fmt.Fprint(w, ",")
		}
		name := fmt.Sprintf("gpu-%05d", i)
		fmt.Fprint(w, s.head, name, strings.Replace(s.tail, "UID", name, 1))
	}
	fmt.Fprint(w, "]}")
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watchAll has the sweeper's watches bring every node, and returns how much was on the
// heap at the most before a page, and how much stays, beyond what was there before.
func watchAll(tb testing.TB, s *oldServer) (nodes []node, most, kept uint64) {
	tb.Helper()
	server := httptest.NewServer(s)
	defer server.Close()
	k, err := newKube(&rest.Config{Host: server.URL}, "ns", "a=b")
	if err != nil {
		tb.Fatal(err)
	}
	before := liveHeap()
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan struct{})
	go func() {
		k.run(ctx)
		close(done)
	}()
	defer func() {
		cancel()
		<-done
	}()
	known := false
	for deadline := time.Now().Add(time.Minute); !known && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		nodes, _, known = k.seen()
	}
	if !known {
		tb.Fatal("the watches have not brought a whole list")
	}
	nodes = nil
	after := liveHeap()
	nodes, _, _ = k.seen()
	return nodes, max(s.live, before) - before, max(after, before) - before
}

// Lists come in pages of one moment, and of a page stays little, however much a Node has.
func TestListsInPages(t *testing.T) {
	const count = 4*pageSize + 1
	s := &oldServer{tb: t, nodes: count, expires: 1}
	s.head, s.tail = fullNode(t, 100)
	all := uint64(count * len(s.head+s.tail))
	nodes, most, kept := watchAll(t, s)
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.Name, b.Name) })
	if len(nodes) != count || s.pages != 1+5 {
		t.Errorf("got %d nodes in %d pages", len(nodes), s.pages)
	}
	if n := nodes[count-1]; n.Name != "gpu-00400" || n.UID != "gpu-00400-uid" || !n.says() || n.Release != "stoker-system/stoker" || n.Wrote.Unix() != 1_800_000_000 {
		t.Errorf("of the last node is known: %+v", n)
	}
	if kept > count*4<<10 || most > all/2 {
		t.Errorf("%d KiB for each node, %d KiB at the most, of %d KiB", kept/count>>10, most>>10, all>>10)
	}
}

// What 5,000 nodes take, by how many models are warm on each.
func BenchmarkWatchNodes(b *testing.B) {
	for _, models := range []int{20, 100, 500} {
		for _, count := range []int{1000, 5000} {
			b.Run(fmt.Sprintf("%d-nodes/%d-models", count, models), func(b *testing.B) {
				var most, kept uint64
				var size int
				for b.Loop() {
					s := &oldServer{tb: b, nodes: count}
					s.head, s.tail = fullNode(b, models)
					size = len(s.head + s.tail)
					_, most, kept = watchAll(b, s)
				}
				b.ReportMetric(float64(size)/1024, "KiB-of-each")
				b.ReportMetric(float64(most)/(1<<20), "MiB-most")
				b.ReportMetric(float64(kept)/(1<<20), "MiB-kept")
			})
		}
	}
}
