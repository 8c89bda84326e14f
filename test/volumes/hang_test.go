package volumes

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/weakfs"
)

// patience is how long a test waits for what should take seconds.
const patience = time.Minute

// served is a volume with one mount, which can be made to hang.
type served struct {
	*weakfs.Volume

	at string
}

// serve shows dir at a new path until the test ends.
func serve(t *testing.T, dir string) *served {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what a volume that hangs does is not tested here")
	}
	at := filepath.Join(t.TempDir(), "mounted")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	v, err := weakfs.Start(weakfs.Options{Dir: dir, Mounts: []string{at}})
	if err != nil && strings.Contains(err.Error(), "there is no FUSE here") {
		t.Skipf("SKIPPED: %v: what a volume that hangs does is not tested", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return &served{v, at}
}

func (v *served) set(t *testing.T, mode weakfs.Mode) {
	t.Helper()
	if err := v.Set(0, mode, 0); err != nil {
		t.Fatal(err)
	}
}

// running is a stoker that runs.
type running struct {
	cmd   *exec.Cmd
	began time.Time
	ended chan error

	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed when there is more text
}

// Write implements io.Writer: both of the command's outputs.
func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.more)
	r.more = make(chan struct{})
	return r.text.Write(p)
}

func (r *running) output() (text string, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String(), r.more
}

func start(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{cmd: exec.CommandContext(t.Context(), binary, args...), began: time.Now(), ended: make(chan error, 1), more: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = r, r
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- r.cmd.Wait() }()
	return r
}

// until waits for a text.
func (r *running) until(t *testing.T, want string) {
	t.Helper()
	late, pattern := time.After(patience), regexp.MustCompile(want)
	for {
		text, more := r.output()
		if pattern.MatchString(text) {
			return
		}
		select {
		case <-more:
		case err := <-r.ended:
			r.ended <- err
			if text, _ := r.output(); !pattern.MatchString(text) {
				t.Fatalf("it ends (%v) before it writes %q: %s", err, want, text)
			}
		case <-late:
			t.Fatalf("it has not written %q but: %s", want, text)
		}
	}
}

// end waits for its exit code. Where the volume hangs, it lets go what has been
// asked of FUSE, which, other than NFS, keeps a process that has ended.
func (r *running) end(t *testing.T, v *served) int {
	t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	late := time.After(patience)
	for {
		select {
		case err := <-r.ended:
			r.ended <- err
			return r.cmd.ProcessState.ExitCode()
		case <-again.C:
			if err := v.GiveUp(0); err != nil {
				t.Fatal(err)
			}
		case <-late:
			text, _ := r.output()
			t.Fatalf("it does not end: %s", text)
		}
	}
}

// commands are all that touch a store, whatever they are for.
func commands(t *testing.T, dir string) map[string][]string {
	t.Helper()
	list := filepath.Join(t.TempDir(), "list.yaml")
	model := source(t, nil)
	if err := os.WriteFile(list, []byte("models:\n- name: tiny\n  source: "+model+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{
		"ls": {"ls"}, "verify": {"verify"}, "rm": {"rm", "tiny"}, "gc": {"gc"}, "pull": {"pull", model}, "wait": {"wait", "tiny"},
		"fit": {"fit", "tiny", "--gpus", "none"}, "gpus": {"gpus", "--gpus", "none"}, "populate": {"populate", "--config", list},
	}
	for name, args := range all {
		all[name] = append(args, "--store", dir)
	}
	return all
}

// Each command tells of a volume that hangs, by name, and ends at once when it is
// interrupted.
func TestVolumeThatHangs(t *testing.T) {
	t.Parallel()
	below := t.TempDir()
	pull(t, source(t, nil), filepath.Join(below, "store"))
	v := serve(t, below)
	// A way there that only a call that hangs could follow.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(v.at, "store"), link); err != nil {
		t.Fatal(err)
	}
	v.set(t, weakfs.Hangs)
	volume := "the volume fuse.weak weak, mounted at " + v.at + ", "
	all := commands(t, filepath.Join(v.at, "store"))
	all["by a link"] = []string{"ls", "--store", link}
	all["not there yet"] = []string{"pull", source(t, nil), "--store", filepath.Join(v.at, "new/store")}
	run := map[string]*running{}
	for name, args := range all {
		run[name] = start(t, args...)
	}
	// Step by step for all: what lets one end would be an answer to the others.
	for name, r := range run {
		r.until(t, "Ctrl-C gives up\n")
		if d := time.Since(r.began); d < 4*time.Second {
			t.Errorf("%s tells after %s", name, d)
		}
	}
	begin := time.Now()
	for name, r := range run {
		signal := syscall.SIGTERM
		if strings.HasPrefix(name, "p") {
			signal = syscall.SIGINT
		}
		if err := r.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range run {
		r.until(t, "interrupted.*\n")
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("%d processes end %s after the signal", len(run), d)
	}
	for name, r := range run {
		if code := r.end(t, v); code != 130 {
			t.Errorf("%s ends with %d", name, code)
		}
		told := "stoker: " + volume + "has not answered for 5 s; Ctrl-C gives up\n"
		want := told + "stoker: interrupted; " + volume + "does not answer\n"
		text, _ := r.output()
		if name == "wait" && text == told+"stoker: interrupted\n" {
			continue // it needs no volume to end
		}
		if text != want {
			t.Errorf("%s writes %q, want %q", name, text, want)
		}
	}
}

// An interrupted command finds out within a second that its volume hangs.
func TestInterruptBeforeHangIsKnown(t *testing.T) {
	t.Parallel()
	below := t.TempDir()
	pull(t, source(t, nil), below)
	v := serve(t, below)
	held, err := os.OpenFile(filepath.Join(v.at, "agent/locks/model-tiny.lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	r := start(t, "rm", "tiny", "--store", v.at)
	r.until(t, "waiting for a pull of tiny to end; Ctrl-C gives up\n")
	v.set(t, weakfs.Hangs)
	begin := time.Now()
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	// It may look at its context before it tries the lock again, and end by itself.
	r.until(t, "stoker: interrupted(; the volume fuse.weak weak, mounted at "+v.at+", does not answer)?\n$")
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it ends %s after the signal", d)
	}
	if code := r.end(t, v); code != 130 {
		t.Errorf("it ends with %d", code)
	}
	v.set(t, weakfs.Healthy)
}

// A wait ends when its time is up, as it says, and not only when the volume answers.
func TestWaitOnVolumeThatHangs(t *testing.T) {
	t.Parallel()
	v := serve(t, t.TempDir())
	v.set(t, weakfs.Hangs)
	r := start(t, "wait", "tiny", "--timeout", "3s", "--store", v.at)
	r.until(t, "not published after 3s: the volume fuse.weak weak, mounted at "+v.at+", does not answer; see to its server, or wait longer with --timeout\n")
	if d := time.Since(r.began); d > 15*time.Second {
		t.Errorf("it takes %s", d)
	}
	if code := r.end(t, v); code != 1 {
		t.Errorf("it ends with %d", code)
	}
}

// A command goes on when its volume answers again, and says so.
func TestVolumeThatAnswersAgain(t *testing.T) {
	t.Parallel()
	below := t.TempDir()
	pull(t, source(t, nil), below)
	v := serve(t, below)
	v.set(t, weakfs.Hangs)
	r := start(t, "verify", "--log-format", "json", "--store", v.at)
	r.until(t, `"msg":"volume does not answer","volume":"fuse.weak weak, mounted at `+v.at+`","seconds":5}`)
	v.set(t, weakfs.Healthy)
	if code := r.end(t, v); code != 0 {
		t.Errorf("it ends with %d", code)
	}
	text, _ := r.output()
	if strings.Count(text, "does not answer") != 1 || !strings.Contains(text, "ok") {
		t.Errorf("it writes %s", text)
	}
}
