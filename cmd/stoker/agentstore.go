package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/store"
)

// diskPatience is how long an agent waits for its disk before it starts without
// it: a volume that hangs must not keep it from saying so.
const diskPatience = 15 * time.Second

// errNoAnswer is a disk that does not answer.
var errNoAnswer = errors.New("no answer")

// within calls what may hang for good, and waits for it no longer than d.
func within(ctx context.Context, d time.Duration, call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }() // left behind if it hangs: nothing ends a call that waits for a dead disk
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("%w within %s", errNoAnswer, d)
	}
}

// openForAgent opens the agent's store. Only what another try cannot change is an
// error; whatever else is wrong with the volume, the agent tells on its Node, and
// looks again.
// A store that agents share is only looked at: who writes into it is not known yet,
// or nobody does. A store of this node alone gets the SELinux label, unless that is
// empty, and keeps it where it is used as the second result.
func openForAgent(ctx context.Context, dir, mode, label string, logger *slog.Logger) (s *store.Store, labelled agent.Store, err error) {
	open := store.OpenLater
	switch mode {
	case agent.VolumeShared:
		open = store.OpenShared
	case agent.VolumeReadOnly:
		open = store.OpenSealed
	}
	s, err = open(dir)
	if err != nil {
		return nil, nil, err
	}
	labelled = withLabel(s, mode, label, logger)
	err = within(ctx, diskPatience, func() error {
		if err := checkStore(dir); err != nil {
			return usage(err)
		}
		if err := labelled.Ensure(ctx); err != nil {
			return err
		}
		if mode != agent.VolumeNode {
			return nil // whoever writes finds out what its file system can do
		}
		return probeStore(s, logger)
	})
	var wrong *usageError
	switch {
	case errors.Is(err, store.ErrUnfit), errors.Is(err, store.ErrNewer), errors.As(err, &wrong), ctx.Err() != nil:
		return nil, nil, err
	case err != nil:
		logger.Error("start without the store", "store", dir, "error", err)
	}
	return s, labelled, nil
}

// labelledStore is a store of this node alone that keeps its SELinux label: folders may be made long after the agent's start,
// as when the volume was not there then, or was emptied. Without the label pods could not read them, and would say so late
// and in words of their own.
type labelledStore struct {
	*store.Store
	label  string
	logger *slog.Logger
	warn   sync.Once
}

// withLabel returns the store that an agent works with.
func withLabel(s *store.Store, mode, label string, logger *slog.Logger) agent.Store {
	if mode != agent.VolumeNode || label == "" {
		return s
	}
	return &labelledStore{Store: s, label: label, logger: logger}
}

// Ensure labels what has another label. Each look at the store begins with it.
func (s *labelledStore) Ensure(ctx context.Context) error {
	if err := s.Store.Ensure(ctx); err != nil {
		return err
	}
	has, err := store.HasLabel(s.Dir(), s.label)
	changed := 0
	if err == nil && !has {
		changed, err = store.SetLabel(s.Dir(), s.label)
	}
	switch {
	case errors.Is(err, store.ErrNoLabels):
		s.warn.Do(func() {
			s.logger.Warn("the store has no SELinux labels: --selinux-label changes nothing here", "store", s.Dir())
		})
	case err != nil:
		return labelError(err)
	case changed > 0:
		s.logger.Info("labelled the store for pods", "store", s.Dir(), "label", s.label, "files", changed)
	}
	return nil
}

// labelError is wrong usage only where the policy forbids the label or does not know it: a disk that fails may answer again.
func labelError(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EINVAL) {
		return usage(fmt.Errorf("--selinux-label: %w; run the agent with an SELinux type that may relabel files, as spc_t (seLinuxOptions of the chart), or leave the label out", err))
	}
	return fmt.Errorf("--selinux-label: %w", err)
}

// loadConfig reads the configuration that is in force at start; the last good one
// is in the store, which may hang.
func loadConfig(ctx context.Context, path, dir string) (agent.Config, error) {
	loaded := make(chan agent.Config, 1)
	err := within(ctx, diskPatience, func() error {
		cfg, err := agent.LoadConfig(path, filepath.Join(dir, "agent", agent.LastGoodFile))
		loaded <- cfg
		return err
	})
	switch {
	case errors.Is(err, errNoAnswer):
		return agent.Config{}, fmt.Errorf("read the configuration: %w: the file, or the store with the last good one, cannot be read", err)
	case err != nil && ctx.Err() == nil:
		return agent.Config{}, usage(err)
	case err != nil:
		return agent.Config{}, err
	}
	return <-loaded, nil
}
