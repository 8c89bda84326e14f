package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
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

// firstTerms is how many numbers the first term of a volume may have.
const firstTerms = 1 << 40

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
	if err := openToAll(s.dir, true); err != nil {
		return err
	}
	for _, dir := range []string{"agent", epochsDir} {
		if err := makeRealDir(filepath.Join(s.dir, dir), true); err != nil {
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
		if err := makeRealDir(filepath.Join(s.dir, dir), true); err != nil {
			return err
		}
	}
	s.term.Store(t)
	s.last.Store(t)
	err = s.updateFile(s.AgentFile(formatFile), []byte(strconv.Itoa(layoutVersion)+"\n"))
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
	// Somebody may have emptied the volume while a writer was paused: the numbers must
	// not begin anew, or that one's folder would be there again.
	epoch := rand.Int64N(firstTerms)
	if len(all) > 0 {
		epoch = slices.Max(all)
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
	text, err := s.readSmall(s.AgentFile(formatFile), maxNote)
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
