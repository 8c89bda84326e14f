package sweep

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
	merge     = "application/merge-patch+json"
	strategic = "application/strategic-merge-patch+json"
	jsonPatch = "application/json-patch+json"
	applyYAML = "application/apply-patch+yaml"
)

// request is one call of the API, and what must come of it.
type request struct {
	name, method, path, media, body string
	// reason is in the answer that refuses it; "": it is allowed.
	reason string
	// header beside the media type.
	impersonate string
}

// patch makes a request that patches a Node.
func patch(name, node, media, body, reason string) request {
	return request{name: name, method: http.MethodPatch, path: "/api/v1/nodes/" + node, media: media, body: body, reason: reason}
}

// try sends each request with a connection's rights, as a subtest.
func try(t *testing.T, cfg *rest.Config, requests []request) {
	t.Helper()
	for _, r := range requests {
		t.Run(strings.ReplaceAll(r.name, " ", "-"), func(t *testing.T) {
			if r.impersonate != "" {
				cfg = rest.CopyConfig(cfg)
				cfg.Impersonate.UserName = r.impersonate
			}
			client, err := kubernetes.NewForConfig(cfg)
			if err != nil {
				t.Fatal(err)
			}
			path, query, _ := strings.Cut(r.path, "?")
			req := client.CoreV1().RESTClient().Verb(r.method).AbsPath(path)
			for pair := range strings.SplitSeq(query, "&") {
				if key, value, ok := strings.Cut(pair, "="); ok {
					req.Param(key, value)
				}
			}
			if r.media == applyYAML {
				req.Param("fieldManager", "hostile")
			}
			if r.body != "" {
				media := r.media
				if media == "" {
					media = "application/json"
				}
				req.SetHeader("Content-Type", media).Body([]byte(r.body))
			}
			// Do reads the API server's reason, DoRaw does not; watches and lists of several kinds it cannot read.
			if err = req.Do(t.Context()).Error(); err != nil && r.reason == "" {
				_, err = req.DoRaw(t.Context())
			}
			switch {
			case r.reason == "" && err != nil:
				t.Errorf("refused: %v", err)
			case r.reason != "" && err == nil:
				t.Error("it went through")
			case r.reason != "" && (!strings.Contains(err.Error(), r.reason) || (!apierrors.IsForbidden(err) && !apierrors.IsInvalid(err))):
				t.Errorf("refused for another reason than %q: %v", r.reason, err)
			}
		})
	}
}
