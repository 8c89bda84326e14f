package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	// dirPattern is what the temporary directories of clusters are called.
	dirPattern = "stoker-cluster-*"
	// keptMarker is the file that protects a directory from removeAbandoned.
	keptMarker = "keep"
	// abandonedAge is how long a directory is left alone even though nobody holds its lock: between making one and
	// locking it, another process must not take it away.
	abandonedAge = time.Minute
)

// newDir makes the directory of a cluster, in the temporary directory if dir is empty, and locks it for as long as this
// process lives or until unlock.
func newDir(dir string) (l layout, unlock func(), err error) {
	if dir == "" {
		removeAbandoned()
		if dir, err = os.MkdirTemp("", dirPattern); err != nil {
			return layout{}, nil, fmt.Errorf("make the cluster's directory: %w", err)
		}
	} else {
		if dir, err = filepath.Abs(dir); err != nil {
			return layout{}, nil, fmt.Errorf("make the cluster's directory: %w", err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return layout{}, nil, fmt.Errorf("make the cluster's directory: %w", err)
		}
	}
	unlock, err = tryLock(filepath.Join(dir, "lock"))
	if err != nil {
		return layout{}, nil, fmt.Errorf("lock the cluster's directory %s: %w", dir, err)
	}
	l = layout{dir: dir}
	for _, sub := range []string{l.path("pki"), l.path("logs"), l.path("kubeconfigs")} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			unlock()
			return layout{}, nil, fmt.Errorf("make the cluster's directory: %w", err)
		}
	}
	return l, unlock, nil
}

// removeAbandoned removes the directories of clusters whose process was killed: some 150 MB each, most of it etcd's.
// What it cannot remove, because it is another user's, stays.
func removeAbandoned() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPattern))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < abandonedAge {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, keptMarker)); err == nil {
			continue
		}
		unlock, err := tryLock(filepath.Join(dir, "lock"))
		if err != nil {
			continue
		}
		_ = os.RemoveAll(dir)
		unlock()
	}
}
