package store

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A file that is opened without borrowing it is like any other file that is open.
func TestOpenUnlent(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	mustDo(t, os.WriteFile(at("file"), []byte("content"), 0o600))
	mustDo(t, os.Symlink("file", at("link")))
	mustDo(t, unix.Mkfifo(at("pipe"), 0o600))
	mustDo(t, os.Mkdir(at("folder"), 0o700))
	const kept = unix.O_DIRECT | unix.O_APPEND | unix.O_ACCMODE
	const reading, making = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK, os.O_RDWR | os.O_CREATE
	for name, c := range map[string]struct {
		path  string
		flags int
		err   error
	}{
		"a file":          {"file", reading, nil},
		"a file directly": {"file", reading | unix.O_DIRECT, nil},
		"a link":          {"link", reading, unix.ELOOP},
		"a pipe":          {"pipe", reading, nil},
		"a folder":        {"folder", reading, nil},
		"nothing":         {"nothing", reading, unix.ENOENT},
		"a new file":      {"new", making | os.O_EXCL, nil},
		"one of two":      {"file", making | os.O_EXCL, unix.EEXIST},
		"the end":         {"file", making | os.O_APPEND, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := openUnlent(at(c.path), c.flags, 0o600)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			defer f.Close()
			flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
			mustDo(t, err)
			if flags&kept != c.flags&kept {
				t.Errorf("open with flags %#x, want %#x", flags&kept, c.flags&kept)
			}
		})
	}
	f, err := openUnlent(at("file"), making|os.O_APPEND, 0o600)
	mustDo(t, err)
	defer f.Close()
	_, err = f.WriteString(", more")
	mustDo(t, err)
	buf := make([]byte, 3) // no multiple of anything
	if n, err := f.ReadAt(buf, 9); n != 3 || err != nil && !errors.Is(err, io.EOF) || string(buf) != "mor" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

// A store looks once what it is on, and again when it is on another device.
func TestLends(t *testing.T) {
	s, err := Open(t.TempDir())
	mustDo(t, err)
	if s.lends() {
		t.Fatal("the directory of tests is on NFS")
	}
	s.lending.lends = true
	if !s.lends() {
		t.Error("it looks again")
	}
	f, err := s.openToRead(s.AgentFile(idFile), 0)
	mustDo(t, errors.Join(err, f.Close()))
	s.identity.device++
	if s.lends() {
		t.Error("it does not look again")
	}
	if s, err = OpenShared(s.dir); err != nil || s.lends() || s.lending.on {
		t.Errorf("it knows before it was opened: %+v, %v", s.lending, err)
	}
	for name, want := range map[string]bool{"nfs4": true, "nfs": false, "ext4": false} {
		if got := (Mount{Type: name}).lends(); got != want {
			t.Errorf("%s lends: %t", name, got)
		}
	}
}

// A writer that takes over leaves alone what is as it should be: to replace a file
// may take as long as a machine that is gone has borrowed it.
func TestTakingOverReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	first := shared(t, dir)
	mustLead(t, first)
	mustDo(t, os.Chtimes(first.AgentFile(formatFile), time.Time{}, time.Unix(1, 0)))
	mustLead(t, shared(t, dir))
	if info, err := os.Stat(first.AgentFile(formatFile)); err != nil || !info.ModTime().Equal(time.Unix(1, 0)) {
		t.Errorf("%s was replaced: %v", formatFile, err)
	}
}
