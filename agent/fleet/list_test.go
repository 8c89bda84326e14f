package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// pages serves Nodes a page at a time, as the API server does, and once says
// that a page is of a version which it has forgotten.
type pages struct {
	*testing.T
	of      int
	expire  bool
	queries []string
}

func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	p.queries = append(p.queries, q.Get("limit")+"/"+q.Get("continue"))
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
		list.Items = append(list.Items, bare(fmt.Sprintf("gpu-%d", i)))
	}
	if from+limit < p.of {
		list.Continue = fmt.Sprint(from + limit)
	}
	p.encode(w, list)
}

func (p *pages) encode(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		p.Error(err)
	}
}

func TestListNodesInPages(t *testing.T) {
	t.Parallel()
	for name, expire := range map[string]bool{"as it should": false, "forgotten in between": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &pages{T: t, of: 2*page + 1, expire: expire}
			server := httptest.NewServer(p)
			defer server.Close()
			nodes, err := ListNodes(t.Context(), &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, n := range nodes {
				seen[n.Name] = true
			}
			if len(nodes) != p.of || len(seen) != p.of {
				t.Errorf("got %d nodes, %d of them different; want %d", len(nodes), len(seen), p.of)
			}
			want := []string{"200/", "200/200", "200/400"}
			if expire {
				want = []string{"200/", "200/200", "/"}
			}
			if got := strings.Join(p.queries, " "); got != strings.Join(want, " ") {
				t.Errorf("asked %s, want %s", got, want)
			}
		})
	}
}

// What goes wrong is one sentence that says what to do.
func TestListNodesErrors(t *testing.T) {
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
			_, err := ListNodes(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "limit=") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
}
