package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// epochsDir holds a folder for each writer that a shared store has had and that
// has not been followed by another one yet: at most one, but for a moment.
const epochsDir = "agent/epochs"

// trashDir holds what is being removed from a shared store.
const trashDir = "agent/trash"

// formatFile holds the version of the layout that a shared store has.
const formatFile = "format"

// layoutVersion is the layout that this package knows. It rises when an older
// stoker would do harm to a store.
const layoutVersion = 1

// term is one writer's time in a store that several machines share. Its folder is
// the fence: what makes or ends a promise is made in it, or moved into it, by a
// rename, and the next writer removes it before anything else. A rename out of, or
// into, a removed folder fails, however long whoever calls it had been paused, and
// whatever its machine still has in its caches. So there is no moment between a
// look at who writes and a write.
type term struct {
	epoch int64
	dir   string
	names atomic.Int64
	// paused, for tests, is where a process can be held up: past the only look at
	// whether it writes. nil: nowhere.
	paused func()

	mu   sync.Mutex
	held map[string]bool // locks, which exclude within this process only
}

// temp is a new name in the term's folder.
func (t *term) temp() string {
	return filepath.Join(t.dir, tempPrefix+strconv.FormatInt(t.names.Add(1), 10))
}

// fenced gives an error its meaning if the term has ended.
func (t *term) fenced(err error) error {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESTALE) {
		return err
	}
	// Its folder goes when a later one is there, but file by file.
	later, listErr := epochsIn(filepath.Dir(t.dir))
	if listErr != nil || slices.ContainsFunc(later, func(n int64) bool { return n > t.epoch }) || !slices.Contains(later, t.epoch) {
		return fmt.Errorf("%w: %w", ErrFenced, err)
	}
	return err
}

// tryLock takes a lock of this process, or returns ErrBusy.
func (t *term) tryLock(what string) (*Lock, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[what] {
		return nil, ErrBusy
	}
	t.held[what] = true
	return &Lock{release: sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.held, what)
	})}, nil
}

// busy says what holds a lock; empty if nothing does.
func (t *term) busy() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for what := range t.held {
		return what
	}
	return ""
}

// OpenShared opens, as [OpenLater] does, a store that machines share: whatever
// locks of the file system say, one of them at a time writes. It touches nothing.
// The store is read-only (ErrReadOnly) until Lead has succeeded. Who may lead is
// for others to decide, a Lease for example; the store makes sure that who no
// longer does, publishes and removes nothing.
func OpenShared(dir string) (*Store, error) {
	s, err := newStore(dir)
	if err != nil {
		return nil, err
	}
	s.writable, s.shared = true, true
	return s, nil
}

// Lead makes this process the one that writes into a shared store, and fences all
// that did before: when it returns, none of them can publish or remove anything
// any more. It begins a store where there is none. ErrFenced says that somebody
// else has begun to lead meanwhile, ErrBusy that work of an earlier term has not
// ended in this process. Only one call at a time.
func (s *Store) Lead(ctx context.Context) error {
	if err := s.lead(ctx); err != nil {
		return fmt.Errorf("become the writer of store %s: %w", s.dir, asStoreError(err))
	}
	return nil
}

func (s *Store) lead(ctx context.Context) error {
	if !s.shared {
		return errors.New("it is not shared")
	}
	if old := s.last.Load(); old != nil && old.busy() != "" {
		return fmt.Errorf("lock %s is still held: %w", old.busy(), ErrBusy)
	}
	s.Follow()
	if _, err := identify(s.dir); err != nil {
		return err
	}
	if err := s.checkFormat(); err != nil {
		return err
	}
	if err := openToAll(s.dir); err != nil {
		return err
	}
	for _, dir := range []string{"agent", epochsDir} {
		if err := makeRealDir(filepath.Join(s.dir, dir), false, true); err != nil {
			return err
		}
	}
	t, err := s.beginTerm()
	if err != nil {
		return err
	}
	if err := s.endTermsBefore(ctx, t.epoch); err != nil {
		return err
	}
	if _, err := s.probeShared(t); err != nil {
		return err
	}
	for _, dir := range append(layout(), trashDir) {
		if err := makeRealDir(filepath.Join(s.dir, dir), false, true); err != nil {
			return err
		}
	}
	s.term.Store(t)
	s.last.Store(t)
	err = s.writeFile(s.AgentFile(formatFile), []byte(strconv.Itoa(layoutVersion)+"\n"), true)
	if err == nil {
		err = s.remember()
	}
	if err != nil {
		s.Follow()
	}
	return err
}

// Follow ends leading: from now on the store is only read. What is at work fails.
func (s *Store) Follow() { s.term.Store(nil) }

// Leading says whether this process writes into the shared store, as far as it
// knows: whether it really may, each write finds out.
func (s *Store) Leading() bool { return s.term.Load() != nil }

// epochs lists the terms that have a folder.
func (s *Store) epochs() ([]int64, error) { return epochsIn(filepath.Join(s.dir, epochsDir)) }

func epochsIn(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []int64
	for _, e := range entries {
		if n, err := strconv.ParseInt(e.Name(), 10, 64); err == nil && n > 0 {
			all = append(all, n)
		}
	}
	return all, nil
}

// beginTerm makes the folder of a new term, later than all there are. Two that do
// so at once get two numbers, since only one can make a folder.
func (s *Store) beginTerm() (*term, error) {
	all, err := s.epochs()
	if err != nil {
		return nil, err
	}
	epoch := int64(0)
	for _, n := range all {
		epoch = max(epoch, n)
	}
	for {
		epoch++
		dir := filepath.Join(s.dir, epochsDir, strconv.FormatInt(epoch, 10))
		err := os.Mkdir(dir, dirMode)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = syncDir(filepath.Dir(dir)) // the number only grows, over a power cut too
		}
		return &term{epoch: epoch, dir: dir, held: map[string]bool{}}, err
	}
}

// endTermsBefore removes the folders of earlier terms, until none is left: whoever
// works in one may still add to it. It removes, and never renames: a folder that
// has another name can still be reached by whoever has it open.
func (s *Store) endTermsBefore(ctx context.Context, epoch int64) error {
	for {
		all, err := s.epochs()
		if err != nil {
			return err
		}
		left := false
		for _, n := range all {
			switch {
			case n > epoch:
				return fmt.Errorf("term %d has begun: %w", n, ErrFenced)
			case n < epoch:
				left = true
				dir := filepath.Join(s.dir, epochsDir, strconv.FormatInt(n, 10))
				if err := os.RemoveAll(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
					return err
				}
			}
		}
		if !left {
			return syncDir(filepath.Join(s.dir, epochsDir))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// checkFormat leaves a store alone that a newer stoker has made another of.
func (s *Store) checkFormat() error {
	text, err := os.ReadFile(s.AgentFile(formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the version of store %s: %w", s.dir, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 1 {
		return fmt.Errorf("read the version of store %s: %q is no version: %w", s.dir, truncated(string(text)), ErrCorrupt)
	}
	if n > layoutVersion {
		return &worded{ErrNewer, fmt.Sprintf("store %s has the layout %d of a newer stoker, and this one knows layouts up to %d: it is left alone; use a newer stoker here", s.dir, n, layoutVersion)}
	}
	return nil
}

func truncated(text string) string { return text[:min(len(text), 40)] }

// checkUnshared refuses to work, by locks of one machine, in a store in which
// machines take turns.
func (s *Store) checkUnshared() error {
	_, err := os.Lstat(filepath.Join(s.dir, epochsDir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	return &worded{ErrReadOnly, fmt.Sprintf("store %s is shared by the agents of several machines, one of which writes into it; name models in the agents' list, or use another store", s.dir)}
}

// canWrite says whether the store may be written now.
func (s *Store) canWrite() bool { return s.writable && (!s.shared || s.term.Load() != nil) }

// tempFile makes a file that is to be renamed to a name in dir.
func (s *Store) tempFile(dir string) (*os.File, error) {
	if !s.shared {
		return os.CreateTemp(dir, tempPrefix+"*")
	}
	t, err := s.now()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(t.temp(), os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	return f, t.fenced(err)
}

// now is the term of this process, or why it has none.
func (s *Store) now() (*term, error) {
	if t := s.term.Load(); t != nil {
		if t.paused != nil {
			t.paused()
		}
		return t, nil
	}
	return nil, fmt.Errorf("store %s: another agent writes into it: %w", s.dir, ErrReadOnly)
}

// rename moves what a temporary file, or another name in the store, holds to its
// place; in a shared store through the fence.
func (s *Store) rename(from, to string) error {
	if !s.shared {
		return os.Rename(from, to)
	}
	t, err := s.now()
	if err != nil {
		return err
	}
	if filepath.Dir(from) != t.dir {
		inside := t.temp()
		if err := os.Rename(from, inside); err != nil {
			return t.fenced(err)
		}
		from = inside
	}
	return t.fenced(os.Rename(from, to))
}

// removeAll removes a file, a link or a folder with all that is in it; nothing
// there is no error. In a shared store it goes through the fence.
func (s *Store) removeAll(path string) error {
	if !s.shared {
		return os.RemoveAll(path)
	}
	t, err := s.now()
	if err != nil {
		return err
	}
	// What is open somewhere leaves a name behind on NFS, which must not be in a
	// folder that the next writer has to remove.
	trash := filepath.Join(s.dir, trashDir, fmt.Sprintf("%d-%s", t.epoch, filepath.Base(t.temp())))
	err = s.rename(path, trash)
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrFenced) {
		if _, missing := os.Lstat(path); errors.Is(missing, fs.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(trash)
}

// removeIfExists removes a file or link; one that is not there is fine.
func (s *Store) removeIfExists(path string) error {
	if !s.shared {
		return removeIfExists(path)
	}
	return asStoreError(s.removeAll(path))
}

// replaceLinkShared is replaceLink in a shared store: a link that is new comes
// through the fence, too.
func (s *Store) replaceLinkShared(target, link string) error {
	t, err := s.now()
	if err != nil {
		return err
	}
	if info, err := os.Lstat(link); err == nil && info.IsDir() {
		if err := s.removeAll(link); err != nil {
			return err
		}
	}
	tmp := t.temp()
	if err := os.Symlink(target, tmp); err != nil {
		return t.fenced(err)
	}
	if err := s.rename(tmp, link); err != nil {
		_ = os.Remove(tmp) // best effort: it goes with the term's folder
		return err
	}
	return nil
}

// moveIn gives a transferred file its blob's name. In a shared store its old name
// stays until it has the new one: what is in the term's folder goes with the term.
func (s *Store) moveIn(from, to string) error {
	if !s.shared {
		return os.Rename(from, to)
	}
	t, err := s.now()
	if err != nil {
		return err
	}
	tmp := t.temp()
	if err := os.Link(from, tmp); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return t.fenced(err)
		}
		return s.rename(from, to) // a file system without links
	}
	if err := s.rename(tmp, to); err != nil {
		return err
	}
	return s.removeIfExists(from)
}

// WriteAgentFile replaces a file of the agent's memory, which survives a power cut
// then. In a shared store only the writer has one.
func (s *Store) WriteAgentFile(name string, data []byte) error {
	if err := s.checkWritable(); err != nil {
		return err
	}
	if err := s.writeFile(s.AgentFile(name), data, true); err != nil {
		return fmt.Errorf("write %s: %w", s.AgentFile(name), err)
	}
	return nil
}

// leavingDir holds a file for each model whose files the writer is about to take.
const leavingDir = "agent/leaving"

// SetLeaving says to the agents that share the store that nobody may promise the
// model any more, because its files will go, or takes that back.
func (s *Store) SetLeaving(name string, leaving bool) error {
	err := errors.Join(s.checkWritable(), checkFolder(name))
	if err == nil && !leaving {
		err = s.removeIfExists(filepath.Join(s.dir, leavingDir, name))
	} else if err == nil {
		if err = s.makeDir(filepath.Join(s.dir, leavingDir)); err == nil {
			err = s.writeFile(filepath.Join(s.dir, leavingDir, name), nil, true)
		}
	}
	if err != nil {
		return fmt.Errorf("say whether %s leaves: %w", name, asStoreError(err))
	}
	return nil
}

// Leaving are the models that the writer is about to remove.
func (s *Store) Leaving() (map[string]bool, error) {
	if !s.shared {
		return nil, nil
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, leavingDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("see which models leave the store: %w", err)
	}
	all := map[string]bool{}
	for _, e := range entries {
		all[e.Name()] = true
	}
	return all, nil
}
