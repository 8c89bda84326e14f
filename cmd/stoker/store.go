package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// checkStore refuses what --store cannot be, without touching it.
func checkStore(dir string) error {
	if dir == "" {
		return errors.New("--store is empty; name a directory")
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() || errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("--store %s is not a directory; name one, or one that can be made", dir)
	}
	return nil
}

// openToPull opens a store that models are pulled into, and makes it if it is
// not there. Where the file system cannot hold one, it says so before anything
// is looked up or begun, and so where it refuses this user; what a store can do
// without is a warning.
func openToPull(dir string, logger *slog.Logger) (*store.Store, error) {
	s, err := store.Open(dir)
	if err != nil {
		return nil, err
	}
	_, err = s.Probe()
	var refused *store.RefusedError
	if err = store.ExplainRefusal(s.Dir(), err); errors.As(err, &refused) {
		return nil, err
	}
	return s, probeStore(s, logger)
}

func probeStore(s *store.Store, logger *slog.Logger) error {
	volume, err := s.Probe()
	switch {
	case errors.Is(err, store.ErrUnfit):
		return err
	case err != nil:
		// A full disk, or for the agent a read-only one: models that are here may be used all the
		// same, and whoever writes hears of it.
		logger.Warn("cannot find out what the store's file system can do", "error", err)
	case !volume.Reserves:
		logger.Warn("the file system reserves no room: a full disk shows in the middle of a transfer, not before it",
			"store", s.Dir(), "type", volume.Type, "mount", volume.Point)
	}
	return nil
}

// openToRead opens a store that must be there; it changes nothing, not even in
// a directory that is empty.
func openToRead(dir string) (*store.Store, error) {
	if err := checkExisting(dir); err != nil {
		return nil, err
	}
	return store.OpenReadOnly(dir)
}

// openToChange opens a store that must be there, writable if it can be. A
// directory without a store in it stays as it is.
func openToChange(dir string) (*store.Store, error) {
	if err := checkExisting(dir); err != nil {
		return nil, err
	}
	if !holdsStore(dir) {
		return store.OpenReadOnly(dir)
	}
	return store.OpenExisting(dir)
}

// tellWait says what a command waits for, so that it does not look stuck.
func (c *cli) tellWait(what string) {
	if c.logFormat == "json" {
		c.logger(slog.LevelInfo).Info("wait", "for", what)
		return
	}
	fmt.Fprintf(c.stderr, "stoker: waiting for %s; Ctrl-C gives up\n", what)
}

// note tells something that is no failure.
func (c *cli) note(text string) {
	if c.logFormat == "json" {
		c.logger(slog.LevelInfo).Info("note", "text", text)
		return
	}
	fmt.Fprintf(c.stderr, "stoker: %s\n", text)
}

// checkExisting refuses a directory that is no store, so that a slip in a path
// is neither called an empty store nor made one. An empty directory is the
// store that nothing was pulled into yet.
func checkExisting(dir string) error {
	if err := checkStore(dir); err != nil {
		return usage(err)
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return usage(fmt.Errorf("there is no store at %s; name one with --store or STOKER_STORE, or pull a model first", dir))
	case err != nil:
		return fmt.Errorf("open store %s: %w", dir, err)
	case len(entries) > 0 && !holdsStore(dir):
		return usage(fmt.Errorf("%s is not a store: it has other files, and no manifests; name a store with --store or STOKER_STORE", dir))
	}
	return nil
}

// explain words what a command ended with where its store's file system refuses this
// user: one sentence, whatever was being done when that showed.
func (c *cli) explain(err error) error {
	if c.command == nil || err == nil {
		return err
	}
	if f := c.command.Flags().Lookup("store"); f != nil {
		err = store.ExplainRefusal(f.Value.String(), err)
	}
	var refused *store.RefusedError
	if errors.As(err, &refused) {
		return advised{refused}
	}
	return err
}

func holdsStore(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "manifests"))
	return err == nil
}

// checkNames refuses arguments that cannot be model names.
func checkNames(names []string) error {
	var errs []error
	for _, n := range names {
		errs = append(errs, fetcher.CheckName(n))
	}
	return errors.Join(errs...)
}

// unknownModel says which name is not in the store and what to do.
func unknownModel(name string, s *store.Store) error {
	return usage(fmt.Errorf("there is no model %q in the store %s; stoker ls shows what is", name, s.Dir()))
}
