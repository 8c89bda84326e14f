package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// publish makes a small model in a new store and returns the store.
func publish(t *testing.T, name string) string {
	t.Helper()
	src, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "config.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, "pull", "file://"+src, "--name", name, "--store", dir); code != exitOK {
		t.Fatalf("pull exits with %d: %s", code, stderr)
	}
	return dir
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func heartbeat(t *testing.T, s *store.Store) {
	t.Helper()
	if err := s.WriteHeartbeat(store.Heartbeat{Node: "n", Time: time.Now()}); err != nil {
		t.Error(err)
	}
}

// took is how long, by the clock of the bubble, a call to wait lasts.
func took(t *testing.T, args ...string) (code int, stderr string, duration time.Duration) {
	t.Helper()
	begin := time.Now()
	code, _, stderr = call(t, append([]string{"wait"}, args...)...)
	return code, stderr, time.Since(begin)
}

func TestWaitWithoutAgent(t *testing.T) {
	for name, dir := range map[string]string{"a store": openStore(t).Dir(), "no store": filepath.Join(t.TempDir(), "none")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				code, stderr, duration := took(t, "m", "--store", dir)
				if code != exitFailed || !strings.Contains(stderr, "no Stoker agent on this node") {
					t.Errorf("exit code %d, %s", code, stderr)
				}
				if nobody := strings.Contains(stderr, "if nobody is to write it"); nobody != (name == "a store") {
					t.Errorf("in %s it says: %s", name, stderr)
				}
				if duration < 2*time.Minute || duration > 2*time.Minute+2*waitPoll {
					t.Errorf("it took %s to miss the agent", duration)
				}
			})
		})
	}
}

func TestWaitForAgentThatDies(t *testing.T) {
	s := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		// It is alive for five minutes, longer than agentMissing.
		go func() {
			for range 30 {
				heartbeat(t, s)
				time.Sleep(10 * time.Second)
			}
		}()
		code, stderr, duration := took(t, "m", "--store", s.Dir())
		if code != exitFailed || !strings.Contains(stderr, "no Stoker agent on this node") {
			t.Errorf("exit code %d, %s", code, stderr)
		}
		// The last sign of life came after 290 s.
		if want := 290*time.Second + agentMissing; duration < want || duration > want+2*waitPoll {
			t.Errorf("it took %s, want %s", duration, want)
		}
	})
}

func TestWaitTimesOut(t *testing.T) {
	s := openStore(t)
	for _, args := range [][]string{{}, {"--timeout", "90m"}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				alive := time.NewTicker(time.Minute)
				defer alive.Stop()
				for ctx.Err() == nil {
					heartbeat(t, s)
					select {
					case <-ctx.Done():
					case <-alive.C:
					}
				}
			}()
			code, stderr, duration := took(t, append([]string{"m", "--store", s.Dir()}, args...)...)
			cancel()
			want := time.Hour
			if len(args) > 0 {
				want = 90 * time.Minute
			}
			if code != exitFailed || duration != want || !strings.Contains(stderr, "not published after "+want.String()) {
				t.Errorf("exit code %d after %s, want %s: %s", code, duration, want, stderr)
			}
			// Nothing new: a line every ten seconds at most.
			if lines := strings.Count(stderr, "\n"); lines > int(want/waitSay)+2 {
				t.Errorf("%d lines in %s", lines, want)
			}
		})
	}
}

// What the agent writes is shown, each state at once, and a model that is
// published in the meantime ends the wait.
func TestWaitFollowsTheAgent(t *testing.T) {
	s, published := openStore(t), publish(t, "m")
	const held = 12 * time.Second // each state
	synctest.Test(t, func(t *testing.T) {
		go func() {
			time.Sleep(waitPoll / 2) // between two looks, so that each sees what was written before
			states := []store.Status{
				{State: "queued", Reason: "2 models are pulled before it"},
				{State: "pulling", Bytes: 10 << 20, Total: 100 << 20},
				{State: "pulling", Bytes: 60 << 20, Total: 100 << 20},
				{State: "failed", Reason: "connection refused", Hint: "it is tried again"},
			}
			for _, st := range states {
				heartbeat(t, s)
				st.Name, st.Time = "m", time.Now()
				if err := s.WriteStatus(st); err != nil {
					t.Error(err)
				}
				time.Sleep(held)
			}
			for _, dir := range []string{"blobs", "models", "manifests"} {
				replace(t, filepath.Join(published, dir), filepath.Join(s.Dir(), dir))
			}
		}()
		code, stderr, duration := took(t, "m", "--store", s.Dir())
		if code != exitOK || duration != 4*held+waitPoll {
			t.Errorf("exit code %d after %s", code, duration)
		}
		for _, want := range []string{
			"queued: 2 models are pulled before it\n",
			"pulling:  10%, 10.0 MiB of 100.0 MiB",
			"pulling:  60%, 60.0 MiB of 100.0 MiB, 2.5 MiB/s, 16s left\n",
			"failed: connection refused; it is tried again\n",
		} {
			if !strings.Contains(stderr, want) {
				t.Errorf("%q is missing in\n%s", want, stderr)
			}
		}
	})
}

// replace moves one directory to the place of another.
func replace(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Error(err)
	}
	if err := os.Rename(from, to); err != nil {
		t.Error(err)
	}
}

// A code that only a newer agent knows does not end the wait.
func TestWaitKnowsWhatIsFinal(t *testing.T) {
	for code, final := range map[string]bool{store.CodeRefused: true, store.CodeNoRoom: true, "": false, "brandNew": false} {
		if err := refusal(store.Status{Code: code, Reason: "so"}); (err != nil) != final {
			t.Errorf("code %q: %v", code, err)
		}
	}
}

// The status file is the agent's: its fields are part of the contract.
func TestWaitReadsTheStatusFile(t *testing.T) {
	var st store.Status
	text := `{"name":"m","state":"pulling","bytes":1,"total":2,"rate":3,"reason":"r","hint":"h","code":"refused"}`
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		t.Fatal(err)
	}
	if want := (store.Status{Name: "m", State: "pulling", Bytes: 1, Total: 2, Rate: 3, Reason: "r", Hint: "h", Code: "refused"}); st != want {
		t.Errorf("got %+v, want %+v", st, want)
	}
}
