package store

import (
	"errors"
	"fmt"
)

// What code branches on.
var (
	// ErrCorrupt is content that does not verify, or a file name that would
	// leave the store.
	ErrCorrupt = errors.New("content does not verify")
	// ErrUnverified is an ErrCorrupt of a blob whose bytes have to be hashed
	// before they are trusted: it was changed since they were, is gone, or was
	// found wrong.
	ErrUnverified = fmt.Errorf("its bytes are not known to be right: %w", ErrCorrupt)
	// ErrLost is an ErrCorrupt of a file system that gives back other bytes than
	// were written to it.
	ErrLost = fmt.Errorf("the file system lost what was written: %w", ErrCorrupt)
	// ErrNoSpace is a full disk, a used-up quota, or a reserve that would be
	// crossed.
	ErrNoSpace = errors.New("no room on the disk")
	// ErrFileTooLarge is an ErrNoSpace that freeing space does not help: the
	// file system holds no file of that size.
	ErrFileTooLarge = fmt.Errorf("%w for a file of that size", ErrNoSpace)
	// ErrUnfit is a file system that lacks what a store, or this model in it,
	// needs: trying again does not help, another directory does.
	ErrUnfit = errors.New("the file system is not fit for it")
	// ErrNotFound is a model that is not published in this store.
	ErrNotFound = errors.New("no such model in the store")
	// ErrVanished is a store whose directory is gone, or is on another file
	// system than it was: its volume was unmounted, or deleted.
	ErrVanished = errors.New("the store's volume is gone")
	// ErrFenced is a shared store into which another process writes now: this one
	// can neither publish nor remove anything.
	ErrFenced = errors.New("another agent has become the store's writer")
	// ErrNewer is a store whose layout is that of a newer stoker.
	ErrNewer = errors.New("the store is a newer stoker's")
	// ErrReadOnly is a store that cannot be written.
	ErrReadOnly = errors.New("the store is read-only")
	// ErrBusy is a model that another process is working on.
	ErrBusy = errors.New("another process is working on it")
)

// worded is an error of a kind in a sentence of its own, which the kind's text
// would only repeat.
type worded struct {
	kind error
	text string
}

func (w *worded) Error() string { return w.text }
func (w *worded) Unwrap() error { return w.kind }
