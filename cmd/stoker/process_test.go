package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// watched is a standard error that tells when it matches.
type watched struct {
	mu      sync.Mutex
	text    bytes.Buffer
	want    *regexp.Regexp
	matched chan struct{}
}

// Write implements io.Writer.
func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	if w.want != nil && w.want.Match(w.text.Bytes()) {
		close(w.matched)
		w.want = nil
	}
	return len(p), nil
}

func (w *watched) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.text.Bytes())
}

// prompt is how soon a signal must end the program, with room for a machine
// that is busy and a binary with the race detector.
const prompt = 10 * time.Second

func interruptCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 3, "interrupt SIGNAL REGEXP COMMAND ARG...")
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM}
	signal, ok := signals[args[0]]
	if !ok {
		ts.Fatalf("unknown signal %q", args[0])
	}
	errs := &watched{want: regexp.MustCompile(args[1]), matched: make(chan struct{})}
	cmd := command(ts, args[2], args[3:]...)
	cmd.Stderr = errs
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	select {
	case <-errs.matched:
		ts.Check(cmd.Process.Signal(signal))
	case err = <-ended:
		ts.Fatalf("it ended (%v) before standard error matched:\n%s", err, errs.bytes())
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		err = <-ended
		ts.Fatalf("standard error does not match (%v):\n%s", err, errs.bytes())
	}
	select {
	case err = <-ended:
	case <-time.After(prompt):
		_ = cmd.Process.Kill()
		err = <-ended
		ts.Fatalf("it did not end within %s of the signal (%v)", prompt, err)
	}
	_, _ = io.Copy(ts.Stderr(), bytes.NewReader(errs.bytes()))
	checkCode(ts, "130", err)
}

func powerlessCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 2, "powerless CODE COMMAND ARG...")
	cmd := command(ts, args[1], args[2:]...)
	ended := make(chan error, 1)
	go func() {
		// The thread ends with this goroutine, and with it its lack of power,
		// which only a child inherits.
		runtime.LockOSThread()
		for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
			// Without root there is nothing to give up.
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		}
		ended <- cmd.Run()
	}()
	checkCode(ts, args[0], <-ended)
}

// mayMount says whether this process may mount file systems.
func mayMount() bool {
	dir, err := os.MkdirTemp("", "stoker-mount")
	if err != nil {
		return false
	}
	defer os.Remove(dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		return false
	}
	return unix.Unmount(dir, 0) == nil
}

// tmpfsCommand mounts a small file system until the script ends.
func tmpfsCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 2, "tmpfs SIZE DIR")
	dir := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[0]))
	ts.Defer(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// readonlyCommand shows a directory at another path, where it cannot be
// written.
func readonlyCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 2, "readonly FROM TO")
	to := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(to, 0o755))
	ts.Check(unix.Mount(ts.MkAbs(args[0]), to, "", unix.MS_BIND, ""))
	ts.Defer(func() { _ = unix.Unmount(to, unix.MNT_DETACH) })
	ts.Check(unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
}

// flipCommand is silent rot: other bytes, and nothing that stat could show.
func flipCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 1, "flip FILE")
	path := ts.MkAbs(args[0])
	info, err := os.Stat(path)
	ts.Check(err)
	ts.Check(os.Chmod(path, 0o644))
	content, err := os.ReadFile(path)
	ts.Check(err)
	content[0] ^= 0xff
	ts.Check(os.WriteFile(path, content, 0o644))
	ts.Check(os.Chmod(path, info.Mode()))
	ts.Check(os.Chtimes(path, info.ModTime(), info.ModTime()))
}

func beyondCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 1, "beyond FILE")
	path := ts.MkAbs(args[0])
	var st unix.Statfs_t
	ts.Check(unix.Statfs(ts.MkAbs("."), &st))
	ts.Check(os.WriteFile(path, nil, 0o644))
	ts.Check(os.Truncate(path, int64(st.Bavail)*st.Bsize+1<<30))
}

// holdCommand holds a lock of the store at models to the script's end, as another
// process does that is at work there.
func holdCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 1, "hold LOCK")
	f, err := os.OpenFile(ts.MkAbs(filepath.Join("models/agent/locks", args[0]+".lock")), os.O_RDWR|os.O_CREATE, 0o644)
	ts.Check(err)
	ts.Defer(func() { _ = f.Close() })
	ts.Check(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}
