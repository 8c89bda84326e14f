//go:build e2e && linux

package nfs_test

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/machine"
)

// An export that lets root write nothing, or nobody, is reported in one sentence that names it, and what is published
// there can be read all the same.
func TestExportThatRefusesWrites(t *testing.T) {
	w := newWorld(t)
	m := w.newModel("tiny", 1, modelBytes)
	a := w.client(2, "")
	dir := store("models")
	w.output(a, w.pull(m.hub, dir, ""))
	for name, c := range map[string]struct{ export, says string }{
		"root_squash": {"rw,root_squash", "root_squash"},
		"read-only":   {"ro", "read-only"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			if err := w.server.Reexport(t.Context(), c.export); err != nil {
				t.Fatal(err)
			}
			if err := a.DropCaches(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, command := range []string{"pull " + m.file + " --name other --progress none", "gc", "rm m"} {
				got := w.run(a, w.stoker(command+" --store "+dir))
				told := withoutNotices(got.Output)
				if got.ExitCode != 1 || strings.Count(told, "\n") != 1 || !strings.Contains(told, c.says) || !strings.Contains(told, "10.9.0.1:/") || !strings.Contains(told, mountPoint) {
					t.Errorf("%s: exit code %d: %s", command, got.ExitCode, got.Output)
				}
			}
			for _, command := range []string{"ls", "verify"} {
				if got := w.run(a, w.stoker(command+" --store "+dir)); got.ExitCode != 0 {
					t.Errorf("%s: exit code %d: %s", command, got.ExitCode, got.Output)
				}
			}
			if err := w.server.Reexport(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			if n := w.checkPublished(a, dir, m); n != 1 {
				t.Errorf("%d revisions are published", n)
			}
		})
	}
}

// withoutNotices is what a command wrote, less the lines about a volume that answers late: on a busy machine a call to the
// server may take more than the five seconds after which they come.
func withoutNotices(output string) string {
	var rest strings.Builder
	for line := range strings.Lines(output) {
		if !strings.Contains(line, " has not answered for ") && !strings.Contains(line, " answers again after ") {
			rest.WriteString(line)
		}
	}
	return rest.String()
}

// Commands whose file server does not answer report it by its name within seconds and end at once when they are
// interrupted; those that nobody interrupts end when it answers again.
func TestServerThatHangs(t *testing.T) {
	w := newWorld(t)
	m := w.newModel("tiny", 1, modelBytes)
	a := w.client(2, "hard")
	dir := store("models")
	w.output(a, w.pull(m.hub, dir, ""))
	if err := a.DropCaches(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.server.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	commands := []string{"ls", "verify", "rm other", "gc", "pull " + m.hub + " --name m --progress none", "wait m"}
	hanging := map[string]*machine.Process{}
	for _, command := range commands {
		hanging[command] = w.start(a, w.stoker(command+" --store "+dir))
	}
	patient := w.start(a, w.stoker("ls --store "+dir))
	for command, p := range hanging {
		w.waitFor(command+" to report the volume", func() bool {
			got := p.Result().Output
			return strings.Contains(got, "10.9.0.1:/") && strings.Contains(got, mountPoint)
		})
	}
	for command, p := range hanging {
		if err := p.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		got, err := p.Wait(ctx)
		cancel()
		if err != nil || got.ExitCode != 130 {
			t.Errorf("%s, interrupted: exit code %d, %v: %s", command, got.ExitCode, err, got.Output)
		}
	}
	if err := w.server.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.wait(patient); got.ExitCode != 0 || !strings.Contains(got.Stdout, "published") {
		t.Errorf("ls when the server answers again: exit code %d: %s", got.ExitCode, got.Output)
	}
}

// On a soft mount calls fail when the server is away for too long. Whatever a pull makes of that, it publishes nothing
// that the server does not have, and succeeds when the server is back.
func TestSoftMount(t *testing.T) {
	w := newWorld(t)
	m := w.newModel("tiny", 1, 2*modelBytes)
	// Without delegations: a server whose way back to a client was cut waits for each of them for a lease's time, and
	// everybody else with it.
	w.output(w.server, "sysctl -qw fs.leases-enable=0")
	a := w.client(2, "soft,timeo=10,retrans=1")
	for kind, source := range map[string]string{"file": m.file, "hub": m.hub} {
		t.Run(kind, func(t *testing.T) {
			w := w.in(t)
			dir := store(path("soft", kind))
			pull := w.start(a, w.pull(source, dir, "--max-rate 8MB"))
			w.waitWritten(pull, dir, modelBytes)
			if err := w.server.Disconnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			// Until the first call has failed: the pull begins again then, or ends.
			w.waitFor("the client to give the server up", func() bool {
				return strings.Contains(w.run(a, "dmesg").Output, "not responding, timed out")
			})
			if err := w.server.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			got := w.wait(pull)
			t.Logf("the pull ended %s after the server was back, with exit code %d: %s", time.Since(began).Round(time.Second), got.ExitCode, got.Output)
			// One that was cut off as well would first wait for its calls of then.
			b := w.client(3, "")
			if n := w.checkPublished(b, dir, m); n > 0 != (got.ExitCode == 0) {
				t.Errorf("exit code %d, %d revisions are published: %s", got.ExitCode, n, got.Output)
			}
			w.output(a, "dmesg --clear")
			w.pullAgain(a, b, source, dir, m)
			if err := b.Kill(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
