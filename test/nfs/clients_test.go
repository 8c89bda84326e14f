//go:build e2e && linux

package nfs_test

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/machine"
)

// Two clients that pull one model at once both succeed, by one download. What one of them removes and collects, the
// other one does not call damaged.
func TestTwoClients(t *testing.T) {
	w := newWorld(t)
	m := w.newModel("tiny", 1, modelBytes)
	a, b := w.client(2, ""), w.client(3, "vers=4.1")
	dir := store("two")
	first := w.start(a, w.pull(m.hub, dir, "--max-rate 8MB -o json"))
	second := w.start(b, w.pull(m.hub, dir, "--max-rate 8MB -o json"))
	for name, pull := range map[string]*machine.Process{"first": first, "second": second} {
		if got := w.wait(pull); got.ExitCode != 0 {
			t.Errorf("the %s pull: exit code %d: %s", name, got.ExitCode, got.Output)
		}
	}
	for _, reader := range []*machine.Machine{a, b} {
		if n := w.checkPublished(reader, dir, m); n != 1 {
			t.Errorf("%s sees %d revisions", reader.Name(), n)
		}
		if got := w.output(reader, w.stoker("ls --store "+dir)); !strings.Contains(got, "published") {
			t.Errorf("%s lists %s", reader.Name(), got)
		}
	}

	// One verifies again and again while the other one removes, collects and pulls.
	verifying := w.start(b, "for i in $(seq 12); do "+w.stoker("verify --store "+dir)+" || echo \"verify: exit code $?\"; done")
	for range 3 {
		w.output(a, w.stoker("rm m --store "+dir))
		w.output(a, w.stoker("gc --store "+dir+" --older-than 0s"))
		w.output(a, w.pull(m.file, dir, ""))
	}
	if got := w.wait(verifying); strings.Contains(got.Output, "exit code") {
		t.Errorf("verify beside removals: %s", got.Output)
	}
	if n := w.checkPublished(b, dir, m); n != 1 {
		t.Errorf("%d revisions are published in the end", n)
	}
}

// A client that is killed in the middle of a pull, program or power, costs at most what was written last, and publishes
// nothing that is not there.
func TestKilledClient(t *testing.T) {
	w := newWorld(t)
	m := w.newModel("tiny", 1, 2*modelBytes)
	a, b := w.client(2, ""), w.client(3, "")
	for name, source := range map[string]string{"file": m.file, "hub": m.hub} {
		dir := store("killed-" + name)
		for round := range 3 {
			pull := w.start(a, w.pull(source, dir, "--max-rate 16MB"))
			w.waitWritten(pull, dir, int64(round+1)*modelBytes/3)
			if round < 2 {
				if err := pull.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				w.wait(pull)
			} else {
				if err := a.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.mount(a, "")
			}
			if n := w.checkPublished(b, dir, m); n != 0 {
				t.Errorf("%s, kill %d: %d revisions are published", name, round, n)
			}
		}
		// Another client goes on: the lock of a machine that is gone ends with its lease.
		got := w.run(b, w.pull(source, dir, "-o json"))
		if got.ExitCode != 0 {
			t.Fatalf("%s: the next pull: exit code %d: %s", name, got.ExitCode, got.Output)
		}
		t.Logf("%s, after three kills: %s", name, got.Stdout)
		if n := w.checkPublished(a, dir, m); n != 1 {
			t.Errorf("%s: %d revisions are published", name, n)
		}
		w.remove(dir)
	}
}

// A file server that loses its power in the middle of a pull, and comes back with or without what it knew of its
// clients' locks, costs time, and perhaps a try, which is reported by the server's name.
func TestServerPowerCut(t *testing.T) {
	w := newWorld(t)
	m := w.newModel("tiny", 1, 2*modelBytes)
	a, b := w.client(2, ""), w.client(3, "")
	for name, forget := range map[string]bool{"with its locks": false, "without its locks": true} {
		for kind, source := range map[string]string{"file": m.file, "hub": m.hub} {
			t.Run(kind+" "+name, func(t *testing.T) {
				w := w.in(t)
				dir := store(path(kind, name))
				pull := w.start(a, w.pull(source, dir, "--max-rate 8MB"))
				w.waitWritten(pull, dir, modelBytes)
				if err := w.server.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := w.server.ServeNFS(t.Context(), machine.Export{ForgetClients: forget}); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				got := w.wait(pull)
				t.Logf("the pull ended %s after the server was back, with exit code %d: %s", time.Since(began).Round(time.Second), got.ExitCode, got.Output)
				if got.ExitCode != 0 {
					t.Errorf("the pull: exit code %d: %s", got.ExitCode, got.Output)
				}
				if n := w.checkPublished(b, dir, m); n != 1 {
					t.Errorf("%d revisions are published", n)
				}
				for _, command := range []string{"gc", "verify", "ls"} {
					if got := w.run(a, w.stoker(command+" --store "+dir)); got.ExitCode != 0 {
						t.Errorf("%s afterwards: exit code %d: %s", command, got.ExitCode, got.Output)
					}
				}
				w.remove(dir)
			})
		}
	}
}

// wait waits for a process, for three minutes at most.
func (w *world) wait(p *machine.Process) machine.Result {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 3*time.Minute)
	defer cancel()
	result, err := p.Wait(ctx)
	if err != nil {
		w.Fatal(err)
	}
	return result
}

// waitWritten waits until a pull into a store reports that so many bytes of the model are there.
func (w *world) waitWritten(pull *machine.Process, dir string, bytes int64) {
	w.Helper()
	w.waitFor("a pull to write", func() bool {
		select {
		case <-pull.Done():
			w.Fatalf("the pull ended before it had written %d bytes: %+v", bytes, pull.Result())
		default:
		}
		text := w.run(w.server, "cat "+w.onServer(dir)+"/agent/progress/m.json 2>/dev/null").Stdout
		var progress struct{ Bytes int64 }
		return json.Unmarshal([]byte(text), &progress) == nil && progress.Bytes > bytes
	})
}
