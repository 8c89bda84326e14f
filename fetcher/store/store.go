// Package store is the layout of models on disk: how verified content gets in,
// becomes visible, is looked up, checked, and collected.
//
//	<store>/blobs/sha256/<hex>                  verified content, read-only
//	<store>/partial/<id>{,.json}                a transfer under way, and its journal
//	<store>/models/<name>/<revision>/<path>     relative symlinks into blobs
//	<store>/models/<name>/current -> <revision> switched atomically
//	<store>/manifests/<name>/<revision>.json    written last: published
//	<store>/status/<name>.json, agent.json      what `stoker wait` reads
//	<store>/agent/                              memory: locks, records, plans
//	<store>/agent/generation -> <random>        another one after every change of manifests
//	<store>/hub/models--ORG--NAME/...           a view for HF_HUB_CACHE
//
// A revision is published when its manifest exists; the manifest is written
// after everything it promises is on disk and synced. Pods mount the whole
// store read-only, so no URL, header or token ever stands in it.
//
// Several processes may work in one store on one machine: they take flocks
// under agent/locks. What a file system has to be able to do for that, Probe
// finds out. Machines that share a store take turns in writing ([OpenShared]).
// It is not for deciding what a store should hold, or who may write.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Modes of what pods read: a hostPath ignores fsGroup, so the world must be
// able to read, whatever the umask.
const (
	dirMode  fs.FileMode = 0o755
	fileMode fs.FileMode = 0o644
	blobMode fs.FileMode = 0o444
)

// Store is one store directory. It holds no open files and is safe for
// concurrent use.
type Store struct {
	dir      string
	writable bool
	// shared: machines take turns in writing, see [OpenShared]. term is this
	// process's turn, nil while it has none, and last the one that it had last.
	shared     bool
	term, last atomic.Pointer[term]
	// sealed: nobody writes, see [OpenSealed].
	sealed bool
	// refused is why a store of [OpenExisting] is not writable; nil: it was not asked
	// to be.
	refused error

	ensuring sync.Mutex

	probe  sync.Mutex
	volume *Volume // what Probe found, nil before

	beforeWithdraw func(ctx context.Context, names []string) error
	onWait         func(what string)

	buffers sync.Pool // of *[]byte, see takeBuffer
	records recordCache
	// manifests were read before; see manifestCache.
	manifests manifestCache

	mu sync.Mutex
	// identity is of the directory that was opened, or has replaced it since.
	identity identity
	lending  lending
	doubted  map[string]record      // blobs found wrong, where that cannot be written down
	trusted  map[blobKey]appearance // blobs found right, likewise
}

// Open opens the store at dir for writing and creates what is missing. A new
// store is made only where [Store.Probe] finds what it needs (ErrUnfit). A file
// system that refuses this user is a [RefusedError].
func Open(dir string) (*Store, error) {
	s, err := OpenLater(dir)
	if err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		return nil, ExplainRefusal(s.dir, err)
	}
	return s, nil
}

// OpenLater is Open for who must not wait for a disk that hangs: it touches
// nothing. The first [Store.Ensure] that succeeds opens the store; use nothing
// else of it before.
func OpenLater(dir string) (*Store, error) {
	s, err := newStore(dir)
	if err != nil {
		return nil, err
	}
	s.writable = true
	return s, nil
}

func (s *Store) open() error {
	if err := errors.Join(s.checkUnshared(), s.checkFormat()); err != nil {
		return err
	}
	err := os.MkdirAll(s.dir, dirMode) //nolint:forbidigo // one machine's store
	if err == nil {
		err = openToAll(s.dir, true)
	}
	if err == nil {
		err = s.makeAgentDir()
	}
	for _, d := range layout() {
		if err == nil {
			err = makeRealDir(filepath.Join(s.dir, d), true)
		}
	}
	if err == nil {
		err = s.remember()
	}
	if err != nil {
		return fmt.Errorf("open store %s: %w", s.dir, asStoreError(err))
	}
	return nil
}

// makeAgentDir makes the folder of the store that probing needs. If it was not
// there, the store is new: where none can be, none is begun.
func (s *Store) makeAgentDir() error {
	dir := filepath.Join(s.dir, "agent")
	_, err := os.Lstat(dir)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := makeRealDir(dir, true); err != nil || !isNew {
		return err
	}
	if _, err := s.findVolume(); errors.Is(err, ErrUnfit) {
		return errors.Join(err, os.Remove(dir)) //nolint:forbidigo // made just now, in one machine's store
	}
	return nil // what else went wrong shows again where it matters
}

// OpenReadOnly opens an existing store to look at it; it writes nothing, and
// every method that would write returns ErrReadOnly.
func OpenReadOnly(dir string) (*Store, error) {
	s, err := newStore(dir)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(s.dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open store %s: it is not a directory", dir)
	}
	if err := s.remember(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return s, nil
}

// OpenExisting opens an existing store, writable if its file system and
// permissions allow that. If they do not, what would write says why.
func OpenExisting(dir string) (*Store, error) {
	s, err := OpenReadOnly(dir)
	if err != nil {
		return nil, err
	}
	if err := s.checkUnshared(); errors.Is(err, ErrReadOnly) {
		s.refused = err
		return s, nil
	}
	if s.refused = accessToWrite(s.dir); s.refused != nil {
		return s, nil //nolint:nilerr // to be read it can be opened, and what would write tells
	}
	writable, err := Open(dir)
	var refused *RefusedError
	if errors.As(err, &refused) {
		s.refused = err
		return s, nil
	}
	return writable, err
}

// accessToWrite is why this user may not write in a directory, or nil.
func accessToWrite(dir string) error {
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return &fs.PathError{Op: "access", Path: dir, Err: err}
	}
	return nil
}

func newStore(dir string) (*Store, error) {
	if dir == "" {
		return nil, errors.New("open store: no directory given")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return &Store{dir: abs}, nil
}

// BeforeWithdraw has ask called before published revisions are withdrawn because
// content that they use turned out wrong: with the names of the models whose
// current revision it is, and when [Store.Check] tells already that it is wrong. It may wait until nobody promises
// them any more; its error leaves everything as it is. Set it before the store is
// used.
func (s *Store) BeforeWithdraw(ask func(ctx context.Context, names []string) error) {
	s.beforeWithdraw = ask
}

// OnWait has tell called once for each lock that somebody else has held for a
// second: with what is waited for, as the end of a sentence. Set it before the
// store is used.
func (s *Store) OnWait(tell func(what string)) { s.onWait = tell }

// Dir is the store's absolute directory.
func (s *Store) Dir() string { return s.dir }

// Writable says whether the store was opened for writing, and may be written now.
func (s *Store) Writable() bool { return s.canWrite() }

// Path is the directory of one revision: what vLLM takes as --model.
func (s *Store) Path(name, revision string) string {
	return filepath.Join(s.dir, "models", name, revision)
}

// AgentFile is a path under <store>/agent for the agent's own memory. Pods can
// read it.
func (s *Store) AgentFile(name string) string {
	return filepath.Join(s.dir, "agent", name)
}

// BlobPath is where the content with this sha256 is, or would be.
func (s *Store) BlobPath(sha256Hex string) string {
	return filepath.Join(s.dir, "blobs", "sha256", sha256Hex)
}

func (s *Store) manifestPath(name, revision string) string {
	return filepath.Join(s.dir, "manifests", name, revision+".json")
}

func (s *Store) checkWritable() error {
	if s.shared {
		_, err := s.now()
		return err
	}
	if !s.writable && s.refused != nil {
		return refusedWrites(s.dir, s.refused)
	}
	if !s.writable {
		return fmt.Errorf("store %s: %w", s.dir, ErrReadOnly)
	}
	return nil
}

// asStoreError gives errors of the operating system the meaning that callers
// branch on.
func asStoreError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w: %w", ErrFileTooLarge, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return err
}
