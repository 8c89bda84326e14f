package gcs

import (
	"net/http"
	"testing"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Whatever the client would ask elsewhere for does not go out.
func TestAuthorizedAsksOneHost(t *testing.T) {
	var asked []string
	a := &authorized{scheme: "https", host: "storage.test", base: roundTripper(func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.URL.String())
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	})}
	for address, ok := range map[string]bool{
		"https://storage.test/b": true, "https://STORAGE.test/b": true,
		"http://storage.test/b": false, "https://storage.test:444/b": false, "https://cdn.storage.test/b": false, "https://test/b": false,
	} {
		asked = nil
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := a.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if (err == nil) != ok || (len(asked) == 1) != ok {
			t.Errorf("%s: asked for %v, %v", address, asked, err)
		}
	}
}
