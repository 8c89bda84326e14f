package store

import "errors"

// What code branches on.
var (
	// ErrCorrupt is content that does not verify, or a file name that would
	// leave the store.
	ErrCorrupt = errors.New("content does not verify")
	// ErrNoSpace is a full disk, a used-up quota, or a reserve that would be
	// crossed.
	ErrNoSpace = errors.New("no room on the disk")
	// ErrNotFound is a model that is not published in this store.
	ErrNotFound = errors.New("no such model in the store")
	// ErrReadOnly is a store that cannot be written.
	ErrReadOnly = errors.New("the store is read-only")
	// ErrBusy is a model that another process is working on.
	ErrBusy = errors.New("another process is working on it")
)
