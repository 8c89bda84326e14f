package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// openExisting opens a store that must be there.
func openExisting(dir string) (*store.Store, error) {
	s, err := store.OpenExisting(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usage(fmt.Errorf("there is no store at %s; name one with --store or STOKER_STORE, or pull a model first", dir))
	}
	return s, err
}

// checkNames refuses arguments that cannot be model names.
func checkNames(names []string) error {
	var errs []error
	for _, n := range names {
		errs = append(errs, fetcher.CheckName(n))
	}
	if err := errors.Join(errs...); err != nil {
		return usage(err)
	}
	return nil
}

// unknownModel says which name is not in the store and what to do.
func unknownModel(name string, s *store.Store) error {
	return usage(fmt.Errorf("there is no model %q in the store %s; stoker ls shows what is", name, s.Dir()))
}
