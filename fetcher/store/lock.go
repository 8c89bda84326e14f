package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// Lock is a lock that this process holds; it ends with Unlock or the process.
type Lock struct {
	file    *os.File
	release func() // where it is only this process's
}

// Unlock releases the lock.
func (l *Lock) Unlock() error {
	if l.release != nil {
		l.release()
	}
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// LockModel takes the lock of one model, which one pull at a time holds. While
// another process or goroutine has it, waiting is called once (if not nil) and
// LockModel polls until the lock is free or ctx ends.
func (s *Store) LockModel(ctx context.Context, name string, waiting func()) (*Lock, error) {
	return s.lock(ctx, "model-"+name, waiting)
}

// lockLayout takes the lock that guards short changes of what refers to what:
// plans, publishing, removal, collection.
func (s *Store) lockLayout(ctx context.Context) (*Lock, error) {
	return s.lock(ctx, "layout", nil)
}

// lockPoll is how often a held lock is tried again. flock has no wait with a
// deadline, and a blocked flock cannot be interrupted.
const lockPoll = 50 * time.Millisecond

func (s *Store) lock(ctx context.Context, what string, waiting func()) (*Lock, error) {
	if err := s.checkWritable(); err != nil {
		return nil, err
	}
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	tell, began := s.onWait, time.Now()
	for {
		l, err := s.tryLock(what)
		if !errors.Is(err, ErrBusy) {
			return l, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		if tell != nil && time.Since(began) >= waitUntold {
			tell(awaited(what))
			tell = nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for lock %s of store %s: %w", what, s.dir, ctx.Err())
		case <-ticker.C:
		}
	}
}

// waitUntold is how long a lock may be waited for without a word.
const waitUntold = time.Second

// awaited says what holds a lock.
func awaited(what string) string {
	if name, ok := strings.CutPrefix(what, "model-"); ok {
		return "a pull of " + name + " to end"
	}
	return "another process to end what it changes in the store"
}

// tryLock takes a lock or returns ErrBusy.
func (s *Store) tryLock(what string) (*Lock, error) {
	if s.shared {
		t, err := s.now()
		if err != nil {
			return nil, err
		}
		return t.tryLock(what)
	}
	path := filepath.Join(s.dir, "agent", "locks", what+".lock")
	f, err := s.openLock(path)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", what, asStoreError(err))
	}
	err = flock(f)
	if unsupported(err) {
		err = volumeAt(path).unfit(noFlock(err))
	}
	if err == nil {
		// Its name may have been given to another file, which others lock.
		var same bool
		if same, err = sameFile(f, path); err == nil && !same {
			err = ErrBusy
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", what, err), f.Close())
	}
	return &Lock{file: f}, nil
}

// lockMode keeps a lock to those who write: whoever can open a file may lock it, and
// pods see the store.
const lockMode fs.FileMode = 0o600

// openLock opens a lock's file. What is no regular file is replaced. One of another
// user is refused: that user could hold it for ever.
func (s *Store) openLock(path string) (*os.File, error) {
	f, info, err := s.openPlace(path, os.O_RDWR|os.O_CREATE, lockMode, func(info fs.FileInfo) bool { return info.Mode().IsRegular() })
	if err != nil {
		return nil, err
	}
	switch uid, known := smallfile.Owner(info); {
	case known && !s.mayOwn(uid):
		err = fmt.Errorf("%s belongs to uid %d, who does not own this store; remove that file", path, uid)
	case info.Mode() != lockMode && s.mayChange(info):
		// Where that cannot be, it was so before.
		_ = f.Chmod(lockMode)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// flock takes an exclusive flock on f without waiting.
func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrBusy
		default:
			return err
		}
	}
}

// lockPartial takes the lock of a transfer, whose file is open as f. In a shared
// store it is this process's: a flock may stay with a machine that is paused, and
// who writes has been decided otherwise.
func (s *Store) lockPartial(f *os.File, id string) (*Lock, error) {
	if s.shared {
		return s.tryLock("partial-" + id)
	}
	return &Lock{}, flock(f)
}
