package serving

import (
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// The preStop hook ends when nothing is served any more, and not before; at its
// limit; and at once where nobody answers.
func TestDrain(t *testing.T) {
	python := find(t, "python3")
	script := filepath.Join(repository(t), "charts", "vllm", "files", "drain.py")
	for name, names := range map[string]Names{"v0.9.1": Before, "v0.33.0": Since} {
		t.Run(name, func(t *testing.T) {
			const busyLooks = 3
			var looks atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				load := Load{}
				// First something runs, then something waits, in the second engine.
				switch looks.Add(1) {
				case 1, 2:
					load.Running = 1
				case busyLooks:
					load.Waiting = 2
				}
				_, _ = w.Write([]byte(Page(names, served, Load{}, load)))
			}))
			defer server.Close()
			out, err := exec.CommandContext(t.Context(), python, script, "0", "600", server.URL+"/metrics").CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Fatalf("%v: %s", err, out)
			}
			if got := looks.Load(); got != busyLooks+1 {
				t.Errorf("it looked %d times, want one more than the %d at which something was served", got, busyLooks)
			}
		})
	}
	t.Run("at its limit", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(Page(Since, served, Load{Running: 1})))
		}))
		defer server.Close()
		if out, err := exec.CommandContext(t.Context(), python, script, "0", "0.1", server.URL+"/metrics").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		if out, err := exec.CommandContext(t.Context(), python, script, "0", "600", "http://127.0.0.1:1/metrics").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	})
}
