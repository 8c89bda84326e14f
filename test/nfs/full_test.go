//go:build e2e && linux

package nfs_test

import (
	"strings"
	"testing"
)

// A disk of the server that is full before a pull, or becomes full in its middle, publishes nothing; when there is room
// again, the next pull succeeds; whatever is published, another client reads as it was at its source.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	m := w.newModel("tiny", 1, modelBytes)
	bucket := w.newBucket()
	w.env = bucket.env
	sources := map[string]string{
		"file": m.file, "hub": m.hub, "s3": bucket.put(t, m, true), "s3 without checksums": bucket.put(t, m, false),
	}
	reader := w.client(3, "")
	for _, version := range []string{"4.1", "4.2"} {
		writer := w.client(2, "hard,vers="+version)
		for kind, source := range sources {
			t.Run(kind+" before, NFS "+version, func(t *testing.T) {
				w := w.in(t)
				dir := store(path(kind, version, "before"))
				w.fill("fill", modelBytes/2)
				got := w.run(writer, w.pull(source, dir, ""))
				if got.ExitCode != 5 {
					t.Errorf("a pull without room: exit code %d: %s", got.ExitCode, got.Output)
				}
				if n := w.checkPublished(reader, dir, m); n != 0 {
					t.Errorf("%d revisions are published", n)
				}
				w.free("fill")
				w.pullAgain(writer, reader, source, dir, m)
			})
			t.Run(kind+" in the middle, NFS "+version, func(t *testing.T) {
				w := w.in(t)
				dir := store(path(kind, version, "middle"))
				pull := w.start(writer, w.pull(source, dir, "--max-rate 4MB"))
				w.waitWritten(pull, dir, modelBytes/3)
				w.fill("fill", 0)
				got := w.wait(pull)
				t.Logf("exit code %d: %s", got.ExitCode, got.Output)
				if n := w.checkPublished(reader, dir, m); n > 0 != (got.ExitCode == 0) || got.ExitCode != 0 && got.ExitCode != 5 {
					t.Errorf("a disk that fills up: exit code %d, %d revisions are published: %s", got.ExitCode, n, got.Output)
				}
				w.free("fill")
				w.pullAgain(writer, reader, source, dir, m)
			})
		}
		if err := writer.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}

// path makes a file's name of words.
func path(words ...string) string {
	return strings.NewReplacer(" ", "-", ".", "-").Replace(strings.Join(words, "-"))
}
