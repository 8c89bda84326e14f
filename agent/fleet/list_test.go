package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/agent"
)

// pages serves Nodes a page at a time, as the API server does, and once says
// that a page is of a version which it has forgotten.
type pages struct {
	*testing.T
	of      int
	node    func(i int) corev1.Node // nil: bare
	expire  bool
	queries []string
}

func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	p.queries = append(p.queries, q.Get("limit")+"/"+q.Get("continue")+q.Get("fieldSelector"))
	w.Header().Set("Content-Type", "application/json")
	from := 0
	if c := q.Get("continue"); c != "" {
		if p.expire {
			p.expire = false
			w.WriteHeader(http.StatusGone)
			p.encode(w, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: metav1.StatusReasonExpired, Code: http.StatusGone, Message: "the continue token is too old"})
			return
		}
		if _, err := fmt.Sscan(c, &from); err != nil {
			p.Error(err)
		}
	}
	limit := p.of
	if l := q.Get("limit"); l != "" {
		if _, err := fmt.Sscan(l, &limit); err != nil {
			p.Error(err)
		}
	}
	list := corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}}
	for i := from; i < min(p.of, from+limit); i++ {
		n := bare(fmt.Sprintf("gpu-%d", i))
		if p.node != nil {
			n = p.node(i)
		}
		if only, named := strings.CutPrefix(q.Get("fieldSelector"), "metadata.name="); !named || only == n.Name {
			list.Items = append(list.Items, n)
		}
	}
	if from+limit < p.of {
		list.Continue = fmt.Sprint(from + limit)
	}
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
		p.encode(w, metadataOf(list))
		return
	}
	p.encode(w, list)
}

// metadataOf is what the API server makes of a list whose metadata are asked for.
func metadataOf(l corev1.NodeList) metav1.PartialObjectMetadataList {
	out := metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: "meta.k8s.io/v1"}, ListMeta: l.ListMeta}
	for _, n := range l.Items {
		out.Items = append(out.Items, metav1.PartialObjectMetadata{ObjectMeta: n.ObjectMeta})
	}
	return out
}

func (p *pages) encode(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		p.Error(err)
	}
}

func TestListInPages(t *testing.T) {
	t.Parallel()
	for name, expire := range map[string]bool{"as it should": false, "forgotten in between": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &pages{T: t, of: 2*page + 1, expire: expire}
			server := httptest.NewServer(p)
			defer server.Close()
			f, err := List(t.Context(), &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, Want{})
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, n := range f.Nodes {
				seen[n.Name] = true
			}
			if len(f.Nodes) != p.of || len(seen) != p.of {
				t.Errorf("got %d nodes, %d of them different; want %d", len(f.Nodes), len(seen), p.of)
			}
			want := []string{"100/", "100/100", "100/200"}
			if expire {
				want = []string{"100/", "100/100", "100/", "100/100", "100/200"}
			}
			if got := strings.Join(p.queries, " "); got != strings.Join(want, " ") {
				t.Errorf("asked %s, want %s", got, want)
			}
		})
	}
}

// One node is read alone; the names of others only to say what may have been meant.
func TestListOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		node, model string
		names       bool
		want        string // of the error of Explain
	}{
		{"gpu-7", "llama", false, ""},
		{"gpu-7", "mistral", true, ""}, // another node has it
		{"gpu-7", "qwen", true, `no node says anything of a model "qwen"`},
		{"gpu-7", "mistra", true, `did you mean "mistral"?`},
		{"gpu-777", "llama", true, `there is no node "gpu-777"; did you mean "gpu-77"?`},
	} {
		t.Run(c.node+" "+c.model, func(t *testing.T) {
			t.Parallel()
			p := &pages{T: t, of: page + 1, node: func(i int) corev1.Node {
				models := []agent.ModelStatus{warmModel("llama", 1)}
				if i == page {
					models = append(models, warmModel("mistral", 1))
				}
				return speaking(t, fmt.Sprintf("gpu-%d", i), word(0, models...))
			}}
			server := httptest.NewServer(p)
			defer server.Close()
			f, err := ListOne(t.Context(), &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, c.node, c.model)
			if err != nil {
				t.Fatal(err)
			}
			want := "/metadata.name=" + c.node
			if c.names {
				want += " 100/ 100/100"
			}
			if got := strings.Join(p.queries, " "); got != want || len(f.Nodes) > 1 {
				t.Errorf("asked %s for %d nodes, want %s", got, len(f.Nodes), want)
			}
			if _, err := f.Explain(c.node, c.model); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("explain: %v", err)
			}
			if only, err := f.Only(c.node, c.model); (err == nil) != (c.want == "") || err == nil && len(only.Nodes) != 1 {
				t.Errorf("only: %v", err)
			}
		})
	}
}

// Of many nodes, what the tables show is summed up while they are read.
func TestReadInParts(t *testing.T) {
	nodes := slices.Concat(large(t), troubled(t))
	for name, c := range map[string]struct {
		want  Want
		model string
		view  View
	}{
		"all":           {Want{}, "", View{}},
		"whole":         {Want{Whole: true}, "", View{Wide: true}},
		"one model":     {Want{Model: "llama"}, "llama", View{All: true}},
		"of that, wide": {Want{Whole: true, Model: "llama"}, "llama", View{All: true, Wide: true}},
	} {
		r := newReader(c.want)
		for part := range slices.Chunk(nodes, 7) {
			r.add(part, now)
		}
		got, err := r.read(now).Only("", c.model)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Read(nodes, now).Only("", c.model)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(render(t, want, c.view), render(t, got, c.view)); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		if name != "all" {
			continue
		}
		for _, n := range got.Nodes {
			if len(n.Models) > 0 || n.labels != nil {
				t.Errorf("of %s all models are kept", n.Name)
			}
		}
	}
}

// What a node takes of 5,000, by how many models are on each.
func BenchmarkReadNodes(b *testing.B) {
	for _, models := range []int{20, 500} {
		b.Run(fmt.Sprintf("5000-nodes/%d-models", models), func(b *testing.B) {
			var all []agent.ModelStatus
			for i := range models {
				all = append(all, warmModel(fmt.Sprintf("organisation-model-%d", i), 1))
			}
			n := speaking(b, "gpu", word(time.Minute, all...))
			for b.Loop() {
				before := liveHeap()
				r := newReader(Want{})
				for i := range 5000 {
					n.Name = fmt.Sprintf("gpu-%d", i)
					r.add([]corev1.Node{n}, now)
				}
				f := r.read(now)
				b.ReportMetric(float64(max(liveHeap(), before)-before)/5000, "B-of-each")
				runtime.KeepAlive(f)
			}
		})
	}
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What goes wrong is one sentence that says what to do.
func TestListErrors(t *testing.T) {
	t.Parallel()
	answer := func(code int, reason metav1.StatusReason, message string) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			(&pages{T: t}).encode(w, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: reason, Code: int32(code), Message: message})
		}))
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	secure := httptest.NewTLSServer(nil)
	defer secure.Close()
	secure.Config.ErrorLog = nil
	for name, c := range map[string]struct {
		server *httptest.Server
		host   string
		want   string
	}{
		"forbidden":    {answer(403, metav1.StatusReasonForbidden, "nodes is forbidden"), "", "list nodes: nodes is forbidden; your account needs the right to list nodes"},
		"unauthorized": {answer(401, metav1.StatusReasonUnauthorized, "Unauthorized"), "", "does not accept your credentials; log in again, or choose others with --kubeconfig or --context"},
		"broken":       {answer(500, metav1.StatusReasonInternalError, "etcd is on fire"), "", "list nodes: etcd is on fire"},
		"refused":      {nil, gone.URL, "connection refused; check that it runs and that this machine can reach it"},
		"certificate":  {nil, secure.URL, "certificate signed by unknown authority; check the certificates in your kubeconfig"},
		"name":         {nil, "http://api.invalid", "lookup api.invalid: no such host; check the address in your kubeconfig"},
	} {
		t.Run(name, func(t *testing.T) {
			host := c.host
			if c.server != nil {
				defer c.server.Close()
				host = c.server.URL
			}
			cfg := &rest.Config{Host: host, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
			if name == "name" {
				cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
					return nil, &net.DNSError{Err: "no such host", Name: "api.invalid", IsNotFound: true}
				}
			}
			_, err := List(t.Context(), cfg, Want{})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "limit=") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
}
