package main

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// nobody is an address on which nothing listens.
func nobody(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return address
}

// A Hub that is down is given some seconds, then a sentence that names it.
func TestPullGivesUpOnAHubThatIsDown(t *testing.T) {
	address, dir := nobody(t), t.TempDir()
	t.Setenv("HF_ENDPOINT", "http://"+address)
	t.Setenv("HF_TOKEN_PATH", dir+"/none")
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		code, stdout, stderr := call(t, "pull", "hf://org/model", "--store", dir)
		duration := time.Since(begin)
		if code != exitFailed || stdout != "" {
			t.Errorf("exit code %d, printed %q", code, stdout)
		}
		if duration < 5*time.Second || duration > 25*time.Second {
			t.Errorf("it gave up after %s", duration)
		}
		last := lastLine(stderr)
		for _, want := range []string{"stoker: pull hf://org/model: ", address, "connection refused", "check that this machine reaches " + address} {
			if !strings.Contains(last, want) {
				t.Errorf("%q is missing in %s", want, last)
			}
		}
	})
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
