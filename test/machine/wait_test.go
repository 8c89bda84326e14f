//go:build e2e && linux

package machine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/machine"
)

const patience = time.Minute

func start(t *testing.T, m *machine.Machine, script string) *machine.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := m.Start(ctx, script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func wait(t *testing.T, p *machine.Process) machine.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	result, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func waitOutput(t *testing.T, p *machine.Process, text string) {
	t.Helper()
	eventually(t, "the output "+text, func() bool { return strings.Contains(p.Result().Output, text) })
}

// eventually waits until a condition holds, for at most a minute.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("waited a minute for %s", what)
		case <-ticker.C:
		}
	}
}
