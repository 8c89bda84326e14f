package main

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// Exit codes: part of the command line's contract, see `stoker --help`.
const (
	exitOK          = 0
	exitFailed      = 1   // trying again may help; also timed out
	exitUsage       = 2   // wrong usage or configuration, unknown names
	exitRefused     = 3   // the source refuses
	exitCorrupt     = 4   // bytes that do not verify, hostile file names
	exitNoSpace     = 5   // no room on the disk
	exitInterrupted = 130 // SIGINT or SIGTERM
)

// exitCodesText is what --help says about them.
const exitCodesText = `Exit codes:
  0    The command did what it was asked to do.
  1    It failed or timed out; trying again may help.
  2    The call or the configuration is wrong: an unknown command, flag or name.
  3    The source refuses: missing, gated, no access, no such revision.
  4    Bytes do not verify, or the source gives file names that none may give.
  5    The disk has no room.
  130  Interrupted by SIGINT or SIGTERM.`

// usageError is wrong usage or configuration: the user has to change the call.
type usageError struct{ err error }

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

func usage(err error) error { return &usageError{err: err} }

// advised is an error that says already what to do.
type advised struct{ error }

func (a advised) Unwrap() error { return a.error }

// exitCode maps an error to the contract. Interruption wins over what it broke.
func exitCode(ctx context.Context, err error) int {
	var u *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &u):
		return exitUsage
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, fetcher.ErrNoSpace):
		return exitNoSpace
	case errors.Is(err, fetcher.ErrCorrupt):
		return exitCorrupt
	case errors.Is(err, fetcher.ErrNothingSelected), errors.Is(err, fetcher.ErrUnsupported), errors.Is(err, fetcher.ErrMisconfigured),
		errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrUnfit):
		return exitUsage
	case errors.Is(err, fetcher.ErrRefused):
		return exitRefused
	default:
		return exitFailed
	}
}

// advice says what to do about failures that come from deep below, where
// nobody knew. Those that bring their own advice get no other.
func advice(err error) string {
	var u *usageError
	var e *fetcher.Error
	var a advised
	switch {
	case errors.As(err, &u), errors.As(err, &a), errors.As(err, &e) && e.Hint != "":
		return ""
	case errors.Is(err, store.ErrFileTooLarge):
		return "choose a store on a file system that takes larger files"
	case errors.Is(err, fetcher.ErrNoSpace):
		return "free some space (stoker rm, stoker gc) or choose another store"
	case errors.Is(err, store.ErrReadOnly), errors.Is(err, syscall.EROFS):
		return "mount it writable, or choose another with --store"
	case errors.Is(err, fs.ErrPermission):
		return "let this user use it, or run as another"
	}
	return ""
}
