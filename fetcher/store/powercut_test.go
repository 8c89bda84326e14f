package store_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// powered is a file system whose power can be cut.
type powered struct {
	t     *testing.T
	image string
	dir   string
}

// newPowered makes an ext4 in a file and mounts it until the test ends.
func newPowered(t *testing.T) *powered {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what a power cut does is not tested here")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("SKIPPED, no mkfs.ext4: what a power cut does is not tested here")
	}
	p := &powered{t: t, image: filepath.Join(t.TempDir(), "image"), dir: filepath.Join(t.TempDir(), "mounted")}
	must(t, os.WriteFile(p.image, nil, 0o600))
	must(t, os.Truncate(p.image, 64<<20))
	must(t, os.Mkdir(p.dir, 0o755))
	p.run("mkfs.ext4", "-q", p.image)
	p.run("mount", "-o", "loop", p.image, p.dir)
	t.Cleanup(func() {
		if err := unmount(p.dir); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *powered) run(name string, args ...string) {
	p.t.Helper()
	if out, err := exec.CommandContext(p.t.Context(), name, args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// cut stops the file system at once: nothing that is not on the disk gets there
// any more, the journal included.
func (p *powered) cut() {
	const shutdown, withoutJournal = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
	dir, err := os.Open(p.dir)
	if err != nil {
		p.t.Error(err)
		return
	}
	defer dir.Close()
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, withoutJournal); err != nil {
		p.t.Error(err)
	}
}

// restore mounts the file system again; nobody may have files of it open.
func (p *powered) restore() {
	p.t.Helper()
	must(p.t, unmount(p.dir))
	p.run("mount", "-o", "loop", p.image, p.dir)
}

// unmount waits while somebody looks at the file system for a moment: whoever
// asks the machine for all of its mounts does, and a process that is being
// started has this one's files open until it runs its own program.
func unmount(dir string) error {
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Unmount(dir, 0)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// What was published needs not be hashed again after a power cut to be known for
// right: a machine that comes back says at once what is warm.
func TestPublishedIsKnownAfterAPowerCut(t *testing.T) {
	for name, files := range map[string]int{"few files": 3, "many files": 40} {
		t.Run(name, func(t *testing.T) {
			p := newPowered(t)
			dir := filepath.Join(p.dir, "store")
			content := map[string]string{}
			for i := range files {
				content[strconv.Itoa(i)] = "content of file " + strconv.Itoa(i)
			}
			m := publish(t, open(t, dir), "tiny", repo, commitA, content)
			p.cut()
			p.restore()
			s := open(t, dir)
			have, err := s.Lookup("tiny")
			must(t, err)
			if have.Revision != m.Revision {
				t.Errorf("%s is published, want %s", have.Revision, m.Revision)
			}
			must(t, s.Check(t.Context(), have))
		})
	}
}

// What a pull has hashed again because its record was lost is known after the
// next power cut.
func TestConfirmedIsKnownAfterAPowerCut(t *testing.T) {
	p := newPowered(t)
	dir := filepath.Join(p.dir, "store")
	s := open(t, dir)
	m := publish(t, s, "tiny", repo, commitA, tiny)
	for _, content := range tiny {
		must(t, os.RemoveAll(filepath.Join(s.AgentFile("verified"), sumOf(content)+".json")))
	}
	top, err := os.Open(dir)
	must(t, err)
	must(t, unix.Syncfs(int(top.Fd()))) // they are lost for good
	must(t, top.Close())
	g := stage(t, s, "tiny")
	for _, content := range tiny {
		admit(t, g, content)
	}
	must(t, g.Confirm(m))
	closeStaging(t, g)
	p.cut()
	p.restore()
	s = open(t, dir)
	have, err := s.Lookup("tiny")
	must(t, err)
	must(t, s.Check(t.Context(), have))
}
