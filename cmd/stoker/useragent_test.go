package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// Every request to an API server names the version and the command that asks.
func TestUserAgent(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]bool{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen[r.UserAgent()] = true
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"nodes is forbidden"}`)
	}))
	defer server.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"c","context":{"cluster":"c"}}],"current-context":"c"}`, server.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for command, args := range map[string][]string{
		"status": {"status"}, "explain": {"explain", "gpu-1", "llama"}, "unlabel": {"unlabel", "--all"},
	} {
		clear(seen)
		if code := run(t.Context(), append(args, "--kubeconfig", kubeconfig), io.Discard, io.Discard); code != exitFailed {
			t.Errorf("%s: exit code %d", command, code)
		}
		want := fmt.Sprintf("stoker/%s (%s/%s) %s", version, runtime.GOOS, runtime.GOARCH, command)
		if len(seen) != 1 || !seen[want] {
			t.Errorf("%s: the API server saw %v, want %s", command, seen, want)
		}
	}
}
