package gpu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

const (
	// killLimit is how long a killed process may take to end. One that waits
	// in the kernel for the driver does not end before the driver answers.
	killLimit = time.Second
	// answerLimit bounds what is kept of a child's output, in bytes: the
	// devices of any machine with thousands of processes fit.
	answerLimit = 4 << 20
)

// Command makes a process that calls [AnswerParent] with its standard output
// and ends. When ctx is done, the process must be killed, as
// exec.CommandContext does.
type Command func(ctx context.Context) *exec.Cmd

// childBackend has each read done by a short process of its own: a library
// that this process has loaded can never be replaced by that of a new driver,
// a call that hangs in it can never be taken back, and while it is initialized,
// it keeps the driver from being unloaded and a GPU from being reset.
type childBackend struct {
	command Command
	wait    func(*exec.Cmd) error // nil for its own Wait
	// left is the end of a process that could not be killed yet, if there is
	// one. No other is started before, so that at most one is left behind.
	left <-chan struct{}
}

func (*childBackend) open() error  { return nil }
func (*childBackend) close() error { return nil }

func (b *childBackend) devices(ctx context.Context) ([]Device, error) {
	if b.left != nil {
		select {
		case <-b.left:
			b.left = nil
		default:
			return nil, fmt.Errorf("an earlier process that was to read them cannot be ended: %w", ErrTimeout)
		}
	}
	cmd := b.command(ctx)
	var out, complaint limitedBuffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &complaint, killLimit
	if err := cmd.Start(); err != nil {
		if ended := endedBy(ctx); ended != nil {
			return nil, ended
		}
		return nil, fmt.Errorf("start a process to read them: %w", err)
	}
	var ended error // once done is closed
	done := make(chan struct{})
	wait := b.wait
	if wait == nil {
		wait = (*exec.Cmd).Wait
	}
	go func() {
		ended = wait(cmd)
		close(done)
	}()
	select {
	case <-done:
		return decodeAnswer(ctx, &out, &complaint, ended)
	case <-ctx.Done():
	}
	timer := time.NewTimer(killLimit)
	defer timer.Stop()
	select {
	case <-done:
		return decodeAnswer(ctx, &out, &complaint, ended)
	case <-timer.C:
		b.left = done
		return nil, fmt.Errorf("the process that was to read them cannot be ended: %w", ErrTimeout)
	}
}

// decodeAnswer turns what a process left into what it read.
func decodeAnswer(ctx context.Context, out, complaint *limitedBuffer, err error) ([]Device, error) {
	if err != nil {
		if ended := endedBy(ctx); ended != nil {
			return nil, ended
		}
		if signal := crashedBy(err, complaint.kept.String()); signal != "" {
			return nil, fmt.Errorf("NVIDIA's library crashed the process that was to read them (%s); nothing else was harmed: reinstall the driver on the node, or report it to NVIDIA", signal)
		}
		why := err.Error()
		if line, _, _ := strings.Cut(strings.TrimSpace(complaint.kept.String()), "\n"); line != "" {
			why += ": " + line
		}
		return nil, fmt.Errorf("the process that was to read them failed: %s", why)
	}
	var a answer
	if out.cut {
		return nil, fmt.Errorf("the process that was to read them said more than %s", FormatSize(answerLimit))
	}
	if err := json.Unmarshal(out.kept.Bytes(), &a); err != nil {
		return nil, fmt.Errorf("understand the process that read them: %w", err)
	}
	if a.Error != "" {
		return nil, &childError{text: a.Error, kind: kinds()[a.Kind]}
	}
	return a.Devices, nil
}

// runtimeSignal is how Go's runtime names the signal that ends a process while C
// code runs.
var runtimeSignal = regexp.MustCompile(`\bSIG[A-Z]+: [a-z ]+`)

// crashedBy is the signal by which a process ended, or "" if it ended otherwise.
// Go's runtime turns most of those that C code causes into a dump on standard
// error and exit code 2.
func crashedBy(err error, complaint string) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return ""
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() != syscall.SIGKILL {
		return status.Signal().String()
	}
	if exit.ExitCode() != 2 || !strings.Contains(complaint, "\ngoroutine ") && !strings.Contains(complaint, "\nPC=") {
		return ""
	}
	if name := runtimeSignal.FindString(complaint); name != "" {
		return strings.TrimSpace(strings.TrimSuffix(name, " code"))
	}
	line, _, _ := strings.Cut(strings.TrimSpace(complaint), "\n")
	return line
}

// endedBy says how a context ended a process; nil if it did not.
func endedBy(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the process that was to read them has not answered and was ended: %w", ErrTimeout)
	}
	return ctx.Err()
}

// answer is what a child writes: the devices, or why there are none.
type answer struct {
	Devices []Device `json:"devices"`
	Error   string   `json:"error,omitempty"`
	// Kind names the sentinel that the error wraps, if any.
	Kind string `json:"kind,omitempty"`
}

func kinds() map[string]error {
	return map[string]error{
		"no-driver": ErrNoDriver, "version-mismatch": ErrVersionMismatch, "no-permission": ErrNoPermission,
		"lost": ErrLost, "unsupported": ErrUnsupported, "timeout": ErrTimeout, "unknown-error": ErrUnknown,
	}
}

// childError is an error that crossed from one process to another.
type childError struct {
	text string
	kind error
}

func (e *childError) Error() string { return e.text }
func (e *childError) Unwrap() error { return e.kind }

// AnswerParent reads the devices once through NVML in this process, and writes
// them or why that failed to w, for the Reader of [OpenInChild] in the process
// that started this one. That the devices cannot be read is no error of its own.
//
// It returns within 10 seconds. The process must then end: the library stays as
// it is, because closing it could hang and the end of the process does as well.
func AnswerParent(ctx context.Context, w io.Writer) error { return answerParent(ctx, w, newNVML()) }

func answerParent(ctx context.Context, w io.Writer, b backend) error {
	devices, err := newReader(b).Devices(ctx)
	a := answer{Devices: devices}
	if err != nil {
		// The parent says the outermost words as well.
		a.Error = strings.TrimPrefix(err.Error(), reading+": ")
		for name, kind := range kinds() {
			if errors.Is(err, kind) {
				a.Kind = name
			}
		}
	}
	if err := json.NewEncoder(w).Encode(a); err != nil {
		return fmt.Errorf("answer the parent: %w", err)
	}
	return nil
}

// limitedBuffer keeps the first answerLimit bytes, and swallows the rest so
// that the writer is not held up. The buffer is no embedded one: its ReadFrom
// would know no limit.
type limitedBuffer struct {
	kept bytes.Buffer
	cut  bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := answerLimit - b.kept.Len(); len(p) > room {
		b.cut = true
		b.kept.Write(p[:room])
		return len(p), nil
	}
	return b.kept.Write(p)
}
