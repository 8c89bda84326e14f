package attacks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// maxMemory is what a command may take at most, whatever it is given: bytes of RSS.
const maxMemory = 256 << 20

// patience ends a command that does not end by itself. Six tries take 15 s, on a machine
// that does nothing else.
const patience = 2 * time.Minute

// outcome is how a command ended.
type outcome struct {
	code    int
	output  string
	message string // the last line of the output
}

// world is where a command runs: a directory of its own, whose store is the only thing
// that it may write.
type world struct {
	dir, store string
}

func newWorld(t *testing.T) world {
	t.Helper()
	dir := t.TempDir()
	return world{dir, filepath.Join(dir, "store")}
}

// environment is that of a machine on which nothing is configured but what env says.
func (w world) environment(env ...string) []string {
	none := filepath.Join(w.dir, "none")
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "TMPDIR=" + w.dir, "AWS_CONFIG_FILE=" + none, "AWS_SHARED_CREDENTIALS_FILE=" + none,
		"AWS_EC2_METADATA_DISABLED=true", "STOKER_STORE=" + w.store,
	}, env...)
}

// attacked runs the program beside an attack, holds it to its bounds and notes a row;
// without an attack, none.
func (w world) attacked(t *testing.T, attack string, env []string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	peak := filepath.Join(t.TempDir(), "peak")
	cmd := exec.CommandContext(ctx, self, append([]string{program}, args...)...)
	cmd.Env = append(w.environment(env...), measure+"="+peak)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	before := w.content(t)
	start := time.Now()
	err = cmd.Run()
	r := row{attack: attack, command: args[0], took: time.Since(start), code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%s: %s hangs: %.1000s", attack, args[0], output.String())
	case err != nil && !errors.As(err, &exit):
		t.Fatalf("%s: %v", args[0], err)
	}
	text, err := os.ReadFile(peak)
	if err != nil {
		t.Fatal(err)
	}
	if r.memory, err = strconv.ParseInt(string(text), 10, 64); err != nil {
		t.Fatal(err)
	}
	r.wrote = w.content(t).since(before)
	if attack != "" {
		rows.Lock()
		rows.all = append(rows.all, r)
		rows.Unlock()
	}
	if r.memory > maxMemory {
		t.Errorf("%s: %s takes %d MiB of memory, want %d at most", attack, args[0], r.memory>>20, maxMemory>>20)
	}
	if strings.Contains(output.String(), "goroutine ") {
		t.Errorf("%s: %s crashes:\n%s", attack, args[0], output.String())
	}
	lines := strings.Split(strings.TrimSpace(output.String()), "\n")
	o := outcome{r.code, output.String(), lines[len(lines)-1]}
	if len(o.message) > 2000 || len(o.output) > 12000 {
		t.Errorf("%s: the message has %d bytes of %d", attack, len(o.message), len(o.output))
	}
	return o
}

// content is what is in a world: the names of files by their folder in the store.
type content struct {
	manifests, blobs, partial, other int
	bytes                            int64 // of blobs and partial, on the disk
	outside                          int
}

func (w world) content(t *testing.T) content {
	t.Helper()
	var c content
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil || d.IsDir():
			return err
		}
		name, inside := strings.CutPrefix(path, w.store+"/")
		room, _, _ := strings.Cut(name, "/")
		var bytes int64
		if info, err := d.Info(); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes = stat.Blocks * 512
			}
		}
		switch {
		case !inside:
			c.outside++
		case room == "manifests":
			c.manifests++
		case room == "blobs":
			c.blobs++
			c.bytes += bytes
		case room == "partial":
			c.partial++
			c.bytes += bytes
		default:
			c.other++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// since words the difference.
func (c content) since(before content) string {
	var words []string
	for _, n := range []struct {
		count int
		what  string
	}{
		{c.manifests - before.manifests, "manifests"},
		{c.blobs - before.blobs, "blobs"},
		{c.partial - before.partial, "partial"},
		{c.other - before.other, "of its own"},
		{c.outside - before.outside, "OUTSIDE"},
		{int(c.bytes-before.bytes) >> 10, "KiB"},
	} {
		if n.count != 0 {
			words = append(words, fmt.Sprintf("%+d %s", n.count, n.what))
		}
	}
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", ")
}

// pull is `stoker pull` of a source into the world's store.
func (w world) pull(t *testing.T, attack string, env []string, source string, more ...string) outcome {
	t.Helper()
	before := w.content(t)
	o := w.attacked(t, attack, env, append([]string{"pull", source, "--store", w.store, "--progress", "none"}, more...)...)
	after := w.content(t)
	if after.outside != before.outside {
		t.Errorf("%s: the pull writes outside of its store: %s", attack, after.since(before))
	}
	if o.code != exitOK && after.manifests != before.manifests {
		t.Errorf("%s: a pull that fails publishes: %s", attack, after.since(before))
	}
	return o
}

// Exit codes of the program.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
	exitCorrupt = 4
)

// expect compares how a command ended.
func (o outcome) expect(t *testing.T, code int, says string) {
	t.Helper()
	if o.code != code || !strings.Contains(o.output, says) {
		t.Errorf("exit code %d, want %d, and output that has %q: %s", o.code, code, says, o.output)
	}
}
