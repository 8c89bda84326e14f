//go:build e2e && linux

package nfs_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/machine"
)

const (
	// mountPoint is where a client has the export.
	mountPoint = "/mnt/models"
	// diskBytes is the size of the server's disk, modelBytes of a model's weights.
	diskBytes  = 192 << 20
	modelBytes = 24 << 20
)

// slow is how long a command takes that a test's log mentions.
const slow = 10 * time.Second

// world is a server, clients of it and a Hub.
type world struct {
	*testing.T
	server *machine.Machine
	hub    *fetchertest.Hub
	// env is what else the program has in its environment, as words of a shell.
	env string
}

// newWorld boots a server with an empty disk.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := machine.MakeDisk(t.Context(), disk, diskBytes); err != nil {
		t.Fatal(err)
	}
	w.server = w.boot(machine.Config{Name: "server", N: 1, Disks: []string{disk}})
	if err := w.server.ServeNFS(t.Context(), machine.Export{}); err != nil {
		t.Fatal(err)
	}
	w.hub = fetchertest.NewHub(fetchertest.HubOptions{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	if err := w.hub.Listen(ctx, machine.HostAddress+":0", machine.HostAddress+":0"); err != nil {
		cancel()
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.hub.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w
}

// boot boots a machine that has the program and ends with the test.
func (w *world) boot(config machine.Config) *machine.Machine {
	w.Helper()
	config.Shares = append(config.Shares, machine.Share{Host: shared, Guest: programDir})
	return network.BootFor(w.T, config)
}

// client boots a machine with the export mounted.
func (w *world) client(n int, options string) *machine.Machine {
	w.Helper()
	m := w.boot(machine.Config{Name: fmt.Sprintf("client%d", n), N: n, Memory: 384})
	w.mount(m, options)
	return m
}

func (w *world) mount(m *machine.Machine, options string) {
	w.Helper()
	if err := m.MountNFS(w.Context(), w.server, mountPoint, options); err != nil {
		w.Fatal(err)
	}
}

// run runs a script in a machine, which must end within two minutes.
func (w *world) run(m *machine.Machine, script string) machine.Result {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 2*time.Minute)
	defer cancel()
	began := time.Now()
	result, err := m.Run(ctx, script)
	if err != nil {
		w.Fatalf("run %q on %s: %v", script, m.Name(), err)
	}
	if took := time.Since(began); took > slow {
		w.Logf("%s took %s for %q", m.Name(), took.Round(time.Second), script)
	}
	return result
}

// output runs a script that must succeed, and returns what it wrote to its standard output.
func (w *world) output(m *machine.Machine, script string) string {
	w.Helper()
	result := w.run(m, script)
	if result.ExitCode != 0 {
		w.Fatalf("run %q on %s: exit code %d: %s", script, m.Name(), result.ExitCode, result.Output)
	}
	return result.Stdout
}

// stoker is the command line of the program in a machine.
func (w *world) stoker(args string) string {
	return w.env + "HF_ENDPOINT=" + w.hub.URL() + " " + programDir + "/stoker " + args
}

// store is the path of a store on the export.
func store(name string) string { return mountPoint + "/" + name }

// pull is the script that pulls a source into a store as the model m.
func (w *world) pull(source, dir, flags string) string {
	return w.stoker("pull " + source + " --name m --progress none --store " + dir + " " + flags)
}

// model is one that the Hub has and, as a directory, every machine.
type model struct {
	// hub and file are sources of it.
	hub, file string
	// dir is where the test has its files.
	dir string
	// sums are the SHA-256 of its files by path.
	sums map[string]string
}

// newModel makes a model of so many bytes.
func (w *world) newModel(name string, seed uint64, bytes int64) model {
	w.Helper()
	spec := fetchertest.SpecOfSize(seed, bytes, 2)
	spec.Bare = true
	tree, err := fetchertest.GenerateModel(spec)
	if err != nil {
		w.Fatal(err)
	}
	repo := "acme/" + name
	w.hub.AddRepo(repo, fetchertest.RepoOptions{})
	if _, err := w.hub.Push(w.Context(), repo, "main", tree); err != nil {
		w.Fatal(err)
	}
	m := model{
		hub: "hf://" + repo, file: "file://" + programDir + "/" + w.Name() + "/" + name, dir: filepath.Join(shared, w.Name(), name), sums: map[string]string{},
	}
	for path, content := range tree {
		at := filepath.Join(m.dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			w.Fatal(err)
		}
		f, err := os.Create(at)
		if err != nil {
			w.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(f, sum), content.Reader()); err != nil {
			w.Fatal(err)
		}
		if err := f.Close(); err != nil {
			w.Fatal(err)
		}
		m.sums[path] = hex.EncodeToString(sum.Sum(nil))
	}
	return m
}

// published returns the SHA-256 by path of the files of every published revision of a store's model, by revision, as a
// machine reads them from the server.
func (w *world) published(by *machine.Machine, dir string) map[string]map[string]string {
	w.Helper()
	if err := by.DropCaches(w.Context()); err != nil {
		w.Fatal(err)
	}
	out := w.output(by, fmt.Sprintf(`cd %s/models/m 2>/dev/null || exit 0
for manifest in ../../manifests/m/*.json; do
	[ -s "$manifest" ] || continue
	revision=$(basename "$manifest" .json)
	(cd "$revision" && find . -type l -o -type f | while read -r path; do echo "$revision $path $(sha256sum < "$path" | cut -d' ' -f1)"; done)
done`, dir))
	found := map[string]map[string]string{}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			w.Fatalf("cannot understand %q", line)
		}
		if found[fields[0]] == nil {
			found[fields[0]] = map[string]string{}
		}
		found[fields[0]][strings.TrimPrefix(fields[1], "./")] = fields[2]
	}
	return found
}

// checkPublished demands that each published revision has exactly the model's bytes, as a machine reads them from the
// server, and returns how many there are.
func (w *world) checkPublished(by *machine.Machine, dir string, want model) int {
	w.Helper()
	found := w.published(by, dir)
	for revision, sums := range found {
		if !maps.Equal(sums, want.sums) {
			w.Errorf("%s reads other bytes than were published in %s@%s:", by.Name(), dir, revision)
			for _, path := range slices.Sorted(maps.Keys(want.sums)) {
				if sums[path] != want.sums[path] {
					w.Errorf("  %s has %q, should have %s", path, sums[path], want.sums[path])
				}
			}
		}
	}
	return len(found)
}

// fill takes the server's disk but for so many bytes; "file" names what takes it.
func (w *world) fill(file string, leave int64) {
	w.Helper()
	w.output(w.server, fmt.Sprintf(`
free=$(( $(stat -f -c '%%a*%%S' %[1]s) - %[3]d ))
[ "$free" -le 0 ] || fallocate -l "$free" %[1]s/../%[2]s || dd if=/dev/zero of=%[1]s/../%[2]s bs=64k 2>/dev/null
sync`, machine.ExportDir, file, leave))
}

// free gives back what fill took.
func (w *world) free(files ...string) {
	w.Helper()
	for _, file := range files {
		w.output(w.server, "rm -f "+machine.ExportDir+"/../"+file+"; sync")
	}
}

// in is the same world for a part of its test.
func (w *world) in(t *testing.T) *world {
	t.Helper()
	return &world{T: t, server: w.server, hub: w.hub, env: w.env}
}

// onServer is the server's path of what clients have at path.
func (w *world) onServer(path string) string {
	return machine.ExportDir + strings.TrimPrefix(path, mountPoint)
}

// number is what a script wrote, -1 if that is no number.
func number(r machine.Result) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(r.Stdout), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// start starts a script in a machine, to be killed at the end of the test.
func (w *world) start(m *machine.Machine, script string) *machine.Process {
	w.Helper()
	p, err := m.Start(w.Context(), script)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(p.Close)
	return p
}

// waitFor waits until a condition holds, for two minutes at most.
func (w *world) waitFor(what string, holds func() bool) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 2*time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			w.Fatalf("waited in vain for %s", what)
		case <-ticker.C:
		}
	}
}

// pullAgain demands that the next pull succeeds, and that another client reads what it published.
func (w *world) pullAgain(writer, reader *machine.Machine, source, dir string, want model) {
	w.Helper()
	if got := w.run(writer, w.pull(source, dir, "")); got.ExitCode != 0 {
		w.Errorf("the next pull: exit code %d: %s", got.ExitCode, got.Output)
		return
	}
	if n := w.checkPublished(reader, dir, want); n != 1 {
		w.Errorf("%d revisions are published", n)
	}
	if got := w.run(reader, w.stoker("verify --store "+dir)); got.ExitCode != 0 {
		w.Errorf("verify: exit code %d: %s", got.ExitCode, got.Output)
	}
	w.remove(dir)
}

// remove takes a store off the server's disk.
func (w *world) remove(dir string) {
	w.Helper()
	w.output(w.server, "rm -rf "+w.onServer(dir))
}
