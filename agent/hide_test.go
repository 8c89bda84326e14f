package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/secrets"
)

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A credential that a source repeats is in nothing that the agent writes: neither one
// that was mounted for an entry, nor what took its place. It stands where texts are
// cut, too.
func TestLoopHidesMountedSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := "first.Token+of/nobody-1", "second.Token+of/nobody-2"
		b := newBench(t, strings.Replace(oneModel, "name: a,", "name: a, credentials: team,", 1)+fast)
		mount := filepath.Join(filepath.Dir(b.config), "credentials", "team")
		if err := os.MkdirAll(mount, 0o700); err != nil {
			t.Fatal(err)
		}
		rotate := func(token string) {
			if err := os.WriteFile(filepath.Join(mount, "HF_TOKEN"), []byte(token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var log lockedBuffer
		b.secrets = secrets.New()
		b.logger = slog.New(b.secrets.Handler(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		b.make()
		repeat := func(token string, before int) {
			b.puller.set(func() {
				b.puller.err = &fetcher.Error{
					Kind: fetcher.ErrRefused, Op: "list files", Origin: "hf://org/a",
					Err: errors.New(strings.Repeat("x", before) + " " + token + " may not"), Hint: strings.Repeat("y", before*200/320) + " take " + token + " back",
				}
				b.puller.takes = 0
			})
		}
		check := func(token string) {
			t.Helper()
			st := b.store.status("a")
			b.cluster.mu.Lock()
			written := map[string]string{
				"what the API server has": strings.Join(b.cluster.texts, "\n"), "the status file": fmt.Sprintf("%+v", st), "the log": log.String(),
			}
			b.cluster.mu.Unlock()
			for where, text := range written {
				for i := range len(token) - 8 {
					if strings.Contains(text, token[i:i+8]) {
						t.Errorf("%s has a part of it, %q: %s", where, token[i:i+8], text)
						break
					}
				}
				if !strings.Contains(text, "(hidden)") && where != "the status file" {
					t.Errorf("%s does not say that something is hidden: %s", where, text)
				}
			}
		}
		// A driver has added what it read before anybody can repeat it. The fake does
		// not: here the agent itself must have seen what is mounted.
		repeat("nothing", 20)
		rotate(first)
		b.start()
		after(10 * time.Second)
		repeat(first, 20)
		after(30 * time.Second)
		check(first)
		rotate(second)
		after(10 * time.Second)
		repeat(second, 30)
		after(30 * time.Second)
		check(first)
		check(second)
		for _, before := range []int{270, 280, 290, 300, 310} { // a reason has 320 characters
			repeat(second, before)
			after(20 * time.Second)
			check(second)
		}
		if n := b.cluster.told(EventModelPullFailed); n == 0 {
			t.Error("no event tells of it")
		}
	})
}

// A source may ask for years; the agent looks again within the hour.
func TestRetryAfterIsBounded(t *testing.T) {
	_, wait := failureOf(&fetcher.Error{Kind: fetcher.ErrThrottled, RetryAfter: 30 * 365 * 24 * time.Hour})
	if wait != time.Hour {
		t.Errorf("it waits %s, want an hour", wait)
	}
}
