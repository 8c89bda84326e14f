package gpu

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func childReader(t *testing.T, command Command) *Reader {
	t.Helper()
	r := newReader(&childBackend{command: command})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestChildAnswers(t *testing.T) {
	const said = `{"devices":[
		{"index":0,"uuid":"GPU-1","state":"ok","totalBytes":151397597184,"freeBytes":18446744073709551615,"processes":[]},
		{"index":1,"uuid":"GPU-2","state":"ok","processes":[{"pid":7,"usedBytes":0,"usedKnown":false,"mps":true}],"mps":true,
		 "ecc":{"uncorrectedErrors":2,"uncorrectedKnown":true},"conditions":[{"type":"uncorrected-errors","blocks":true,"reason":"why"}]},
		{"index":2,"uuid":"GPU-3","state":"lost","reason":"gone","mig":{"parentUuid":"GPU-0","index":3}}]}`
	got, err := childReader(t, childCommand(t, said)).Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Device{
		{UUID: "GPU-1", State: StateOK, TotalBytes: 151397597184, FreeBytes: 1<<64 - 1, Processes: []Process{}},
		{
			Index: 1, UUID: "GPU-2", State: StateOK, Processes: []Process{{PID: 7, MPS: true}}, MPS: true,
			ECC:        &ECC{UncorrectedErrors: 2, UncorrectedKnown: true},
			Conditions: []Condition{{Type: ConditionUncorrectedErrors, Blocks: true, Reason: "why"}},
		},
		{Index: 2, UUID: "GPU-3", State: StateLost, Reason: "gone", MIG: &MIG{ParentUUID: "GPU-0", Index: 3}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What the parent hears is what Open would have said: same words, same sentinel.
func TestChildErrorsKeepTheirKind(t *testing.T) {
	for name, kind := range kinds() {
		said := `{"devices":null,"error":"initialize NVML: why","kind":"` + name + `"}`
		_, err := childReader(t, childCommand(t, said)).Devices(t.Context())
		if !errors.Is(err, kind) || err.Error() != "read GPUs: initialize NVML: why" {
			t.Errorf("%s: %v", name, err)
		}
		for other, sentinel := range kinds() {
			if other != name && errors.Is(err, sentinel) {
				t.Errorf("%s is also %s", name, other)
			}
		}
	}
	_, err := childReader(t, childCommand(t, `{"error":"NVML error 999","kind":""}`)).Devices(t.Context())
	if err == nil || err.Error() != "read GPUs: NVML error 999" {
		t.Errorf("without a kind: %v", err)
	}
}

func TestChildThatFails(t *testing.T) {
	for role, want := range map[string]string{
		"crash":  "NVIDIA's library crashed the process that was to read them (fatal error: unexpected signal during runtime execution)",
		"killed": "the process that was to read them failed: signal: killed",
		"refuse": "failed: exit status 2: stoker: no such command",
		"mumble": "understand the process that read them",
		"flood":  "said more than 4.0 MiB",
	} {
		list, err := childReader(t, childCommand(t, role)).Devices(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, %v; want %q", role, list, err, want)
		}
	}
	r := childReader(t, func(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, "/nonexistent/stoker") })
	if _, err := r.Devices(t.Context()); err == nil || !strings.Contains(err.Error(), "start a process") {
		t.Errorf("without a binary: %v", err)
	}
}

// A child that hangs is killed, what it said before is not believed, and the next
// read has a child of its own.
func TestChildThatHangsIsKilled(t *testing.T) {
	var started []*exec.Cmd
	r := childReader(t, func(ctx context.Context) *exec.Cmd {
		role := `{"devices":[{"uuid":"GPU-1"}]}`
		if started == nil {
			role = "hang"
		}
		cmd := childCommand(t, role)(ctx)
		started = append(started, cmd)
		return cmd
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if list, err := r.Devices(ctx); !errors.Is(err, ErrTimeout) {
		t.Fatalf("%v, %v; want ErrTimeout", list, err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		list, err := r.Devices(t.Context())
		if err == nil {
			if len(list) != 1 || list[0].UUID != "GPU-1" {
				t.Errorf("%+v", list)
			}
			break
		}
		// Until the killed one is gone.
		if !errors.Is(err, ErrTimeout) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if len(started) != 2 || started[0].ProcessState == nil || started[0].ProcessState.Success() {
		t.Errorf("%d processes, the first ended as %v; want 2, the first killed", len(started), started[0].ProcessState)
	}
}

func TestCanceledChildEndsWithTheCall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	r := childReader(t, func(ctx context.Context) *exec.Cmd {
		close(started)
		return childCommand(t, "hang")(ctx)
	})
	go func() {
		<-started
		cancel()
	}()
	if _, err := r.Devices(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrTimeout) {
		t.Errorf("%v; want context.Canceled alone", err)
	}
}

// A process that waits in the kernel for the driver does not even end when it is
// killed. It is left, nothing else is started meanwhile, and it is forgotten
// once it has ended.
func TestChildThatCannotBeKilled(t *testing.T) {
	ended := make(chan struct{})
	starts := 0
	ctx, cancel := context.WithCancel(t.Context())
	b := &childBackend{
		command: func(ctx context.Context) *exec.Cmd {
			starts++
			return childCommand(t, `{"devices":[]}`)(ctx)
		},
		wait: func(cmd *exec.Cmd) error {
			cancel() // the caller gives up
			err := cmd.Wait()
			<-ended
			return err
		},
	}
	if _, err := b.devices(ctx); !errors.Is(err, ErrTimeout) {
		t.Fatalf("%v; want ErrTimeout", err)
	}
	if _, err := b.devices(t.Context()); !errors.Is(err, ErrTimeout) {
		t.Fatalf("while it is left: %v; want ErrTimeout", err)
	}
	if starts != 1 {
		t.Fatalf("%d processes were started; want one", starts)
	}
	close(ended)
	for deadline := time.Now().Add(30 * time.Second); ; {
		if _, err := b.devices(t.Context()); err == nil {
			break
		} else if !errors.Is(err, ErrTimeout) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if starts != 2 {
		t.Errorf("%d processes were started; want two", starts)
	}
}
