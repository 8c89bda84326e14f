package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// nodesServer answers lists of the metadata of 1,200 Nodes, page by page. The
// version of the first list expires before its third page.
type nodesServer struct {
	*testing.T
	lists, requests int
}

const carrying = 1200

func (s *nodesServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests++
	q := r.URL.Query()
	if !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList;g=meta.k8s.io;v=v1") {
		s.Errorf("it asks for %q", r.Header.Get("Accept"))
	}
	if r.URL.Path != "/api/v1/nodes" || q.Get("labelSelector") != WarmPrefix+"tiny" || q.Has("resourceVersion") {
		s.Errorf("it asks for %s", r.URL)
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit > 500 {
		s.Errorf("the limit is %q", q.Get("limit"))
		http.Error(w, "no limit", http.StatusBadRequest)
		return
	}
	from := 0
	if token := q.Get("continue"); token == "" {
		s.lists++
	} else if from, err = strconv.Atoi(token); err != nil {
		s.Error(err)
	}
	w.Header().Set("Content-Type", "application/json")
	if s.lists == 1 && from >= 2*limit {
		w.WriteHeader(http.StatusGone)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}`)
		return
	}
	page := metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"}}
	to := min(from+limit, carrying)
	for i := from; i < to; i++ {
		page.Items = append(page.Items, metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Name:   fmt.Sprintf("list-%d-node-%d", s.lists, i),
			Labels: map[string]string{WarmPrefix + "tiny": "disk", RevPrefix + "tiny": strconv.Itoa(i)},
		}})
	}
	if to < carrying {
		page.Continue = strconv.Itoa(to)
	}
	if err := json.NewEncoder(w).Encode(page); err != nil {
		s.Error(err)
	}
}

func TestCarriersComeInPages(t *testing.T) {
	server := &nodesServer{T: t}
	h := httptest.NewServer(server)
	defer h.Close()
	l, err := newNodeLabels(&rest.Config{Host: h.URL})
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := l.carriers(t.Context(), "tiny")
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != carrying || nodes["list-2-node-7"] != "7" {
		t.Errorf("%d nodes carry it, one at %q", len(nodes), nodes["list-2-node-7"])
	}
	if server.lists != 2 || server.requests != 6 {
		t.Errorf("it took %d lists of %d requests", server.lists, server.requests)
	}
}
