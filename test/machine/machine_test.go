//go:build e2e && linux

package machine_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/machine"
)

func TestCommands(t *testing.T) {
	m := boot(t, machine.Config{Name: "first", N: 1})
	for _, test := range []struct {
		script string
		want   machine.Result
	}{
		{"echo out; exit 7", machine.Result{Stdout: "out\n", Output: "out\n", ExitCode: 7}},
		{"echo err >&2", machine.Result{Stderr: "err\n", Output: "err\n"}},
		{"hostname", machine.Result{Stdout: "first\n", Output: "first\n"}},
		{"kill -9 $$", machine.Result{ExitCode: 137, Signal: syscall.SIGKILL}},
		{"touch /etc/written && rm /etc/hostname", machine.Result{}},
		// What goes on in the background does not hold the result back for long.
		{"sleep 1000 & true", machine.Result{}},
	} {
		got, err := m.Run(t.Context(), test.script)
		if err != nil {
			t.Errorf("%s: %v", test.script, err)
		} else if got != test.want {
			t.Errorf("%s: %+v, want %+v", test.script, got, test.want)
		}
	}
	if size := len(output(t, m, "head -c 5000000 /dev/zero")); size != 5000000 {
		t.Errorf("5000000 bytes became %d", size)
	}
	if _, err := os.Stat(filepath.Join(os.Getenv("STOKER_E2E_UML_ROOT"), "etc/written")); err == nil {
		t.Error("the machine wrote to the shared root directory")
	}
	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	output(t, m, "test -e /etc/hostname && ! test -e /etc/written")
}

func TestSignals(t *testing.T) {
	m := boot(t, machine.Config{Name: "first", N: 1})
	p := start(t, m, `trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 100; done`)
	waitOutput(t, p, "ready")
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, p); got.ExitCode != 5 || got.Output != "ready\ninterrupted\n" {
		t.Errorf("after an interrupt: %+v", got)
	}
	p = start(t, m, "echo ready; sleep 100; true")
	waitOutput(t, p, "ready")
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, p); got.ExitCode != 137 || got.Signal != syscall.SIGKILL {
		t.Errorf("after kill -9: %+v", got)
	}
	// A connection's end kills what it started, and the first process collects what nobody waits for.
	p = start(t, m, "echo ready; sleep 12345; true")
	waitOutput(t, p, "ready")
	p.Close()
	eventually(t, "the command to be killed", func() bool {
		return strings.TrimSpace(output(t, m, "pgrep -x sleep; ps ax -o stat= | grep '^Z'; true")) == ""
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if got, err := m.Run(ctx, "sleep 100"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a deadline: %+v, %v", got, err)
	}
}

func TestShares(t *testing.T) {
	read, write := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(read, "file"), []byte("from the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := boot(t, machine.Config{Name: "first", N: 1, Shares: []machine.Share{
		{Host: read, Guest: "/models"}, {Host: write, Guest: "/results/it's", Writable: true},
	}})
	if got := output(t, m, "cat /models/file"); got != "from the host" {
		t.Errorf("the machine reads %q", got)
	}
	if got, err := m.Run(t.Context(), "touch /models/other"); err != nil || !strings.Contains(got.Stderr, "Read-only") {
		t.Errorf("writing to a read-only share: %+v, %v", got, err)
	}
	output(t, m, `echo -n back > "/results/it's/file"`)
	if got, err := os.ReadFile(filepath.Join(write, "file")); err != nil || string(got) != "back" {
		t.Errorf("the host reads %q, %v", got, err)
	}
}

func TestLostMachine(t *testing.T) {
	m := boot(t, machine.Config{Name: "first", N: 1})
	p := start(t, m, "echo ready; sleep 1000")
	waitOutput(t, p, "ready")
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); !errors.Is(err, machine.ErrLost) {
		t.Errorf("a command in a killed machine: %v", err)
	}
	if _, err := m.Run(t.Context(), "true"); !errors.Is(err, machine.ErrLost) {
		t.Errorf("a command to a killed machine: %v", err)
	}
	_, err := network.Boot(t.Context(), machine.Config{Name: "broken", N: 2, KernelArgs: []string{"stoker.root=/nowhere"}})
	if err == nil || !strings.Contains(err.Error(), "mount hostfs on /host") {
		t.Errorf("a machine without a root: %v", err)
	}
}

func TestPauseAndDisconnect(t *testing.T) {
	a, b := boot(t, machine.Config{Name: "first", N: 1}), boot(t, machine.Config{Name: "second", N: 2})
	ping := "ping -c 1 -W 1 " + b.Address()
	// On a busy machine an answer may take longer than a second.
	reached := func() bool {
		got, err := a.Run(t.Context(), ping)
		return err == nil && got.ExitCode == 0
	}
	eventually(t, "an answer", reached)
	counter := start(t, b, "while :; do echo tick; read -t .02 <> <(:); done")
	waitOutput(t, counter, "tick")
	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Run(t.Context(), ping); err != nil || got.ExitCode != 1 {
		t.Errorf("ping of a paused machine: %+v, %v", got, err)
	}
	before := len(counter.Result().Output)
	output(t, a, ping+"; true")
	if after := len(counter.Result().Output); after != before {
		t.Errorf("a paused machine wrote %d bytes", after-before)
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an answer", reached)
	eventually(t, "the machine to go on", func() bool { return len(counter.Result().Output) > before })
	counter.Close()

	if err := b.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Run(t.Context(), ping); err != nil || got.ExitCode != 1 {
		t.Errorf("ping of a disconnected machine: %+v, %v", got, err)
	}
	output(t, b, "true")
	if err := b.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an answer", reached)
	if err := a.Disturb(t.Context(), "delay 80ms"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	output(t, a, "ping -c 1 -W 5 "+b.Address())
	if took := time.Since(begin); took < 80*time.Millisecond {
		t.Errorf("a ping with a delay of 80 ms took %s", took)
	}
	if err := a.Calm(t.Context()); err != nil {
		t.Fatal(err)
	}
}
