// Package hostile tries requests of the API that an account must not get
// through, and those that it must: the tables of the agent's and the sweeper's
// policies share it. Each request is sent as it stands, with the account's own
// token, to a real API server, and what refuses it must say the expected reason:
// a request that fails because it is malformed proves nothing.
package hostile

import (
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Media types of patches.
const (
	Merge     = "application/merge-patch+json"
	Strategic = "application/strategic-merge-patch+json"
	JSONPatch = "application/json-patch+json"
	Apply     = "application/apply-patch+yaml"
)

// Request is one call of the API, and what must come of it.
type Request struct {
	// Name of the subtest.
	Name string
	// Method and Path, which may have a query.
	Method, Path string
	// Media is the body's type. Default: JSON.
	Media string
	Body  string
	// Reason is in the answer that refuses it; empty: it must be allowed.
	Reason string
	// Impersonate names a user to act as, Header adds what else is sent.
	Impersonate string
	Header      map[string]string
}

// PatchNode makes a request that patches a Node.
func PatchNode(name, node, media, body, reason string) Request {
	return Request{Name: name, Method: http.MethodPatch, Path: "/api/v1/nodes/" + node, Media: media, Body: body, Reason: reason}
}

// Try sends each request with a connection's rights, as a subtest.
func Try(t *testing.T, cfg *rest.Config, requests []Request) {
	t.Helper()
	for _, r := range requests {
		t.Run(strings.ReplaceAll(r.Name, " ", "-"), func(t *testing.T) { try(t, cfg, r) })
	}
}

func try(t *testing.T, cfg *rest.Config, r Request) {
	t.Helper()
	cfg = rest.CopyConfig(cfg)
	cfg.Impersonate.UserName = r.Impersonate
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	path, query, _ := strings.Cut(r.Path, "?")
	req := client.CoreV1().RESTClient().Verb(r.Method).AbsPath(path)
	for pair := range strings.SplitSeq(query, "&") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			req.Param(key, value)
		}
	}
	for key, value := range r.Header {
		req.SetHeader(key, value)
	}
	if r.Media == Apply {
		req.Param("fieldManager", "hostile").Param("force", "true")
	}
	if r.Body != "" {
		media := r.Media
		if media == "" {
			media = "application/json"
		}
		req.SetHeader("Content-Type", media).Body([]byte(r.Body))
	}
	if r.Reason == "" {
		_, err = req.DoRaw(t.Context()) // a watch is nothing that Do could read
	} else {
		err = req.Do(t.Context()).Error() // it reads the API server's reason
	}
	switch {
	case r.Reason == "" && err != nil:
		t.Errorf("refused: %v", err)
	case r.Reason != "" && err == nil:
		t.Error("it went through")
	case r.Reason != "" && (!strings.Contains(err.Error(), r.Reason) || (!apierrors.IsForbidden(err) && !apierrors.IsInvalid(err))):
		t.Errorf("refused for another reason than %q: %v", r.Reason, err)
	}
}
