package main

import (
	"context"
	"errors"

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

// usageError is wrong usage or configuration: the user has to change the call.
type usageError struct{ err error }

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

func usage(err error) error { return &usageError{err: err} }

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
	case errors.Is(err, fetcher.ErrNothingSelected), errors.Is(err, fetcher.ErrUnsupported), errors.Is(err, store.ErrNotFound):
		return exitUsage
	case errors.Is(err, fetcher.ErrRefused):
		return exitRefused
	default:
		return exitFailed
	}
}
