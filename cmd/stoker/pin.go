package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// pinName is the symlink to the model in --pin's directory.
const pinName = "model"

// pinLink is the symlink in --pin's directory to the model, which is the first of
// the names, or to one of its adapters.
func pinLink(dir string, index int, name string) string {
	if index == 0 {
		return filepath.Join(dir, pinName)
	}
	return filepath.Join(dir, "adapters", name)
}

// preparePin makes the symlink's directory and finds out before the wait what
// would keep the symlink from being made after it.
func preparePin(pinDir, link string) error {
	dir := pinDir // as it was given
	if filepath.Dir(link) != filepath.Clean(pinDir) {
		dir = filepath.Dir(link)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, fs.ErrExist) { // the latter also of links that lead nowhere
			return usage(fmt.Errorf("--pin %s is not a directory; name one, or one that can be made", dir))
		}
		return pinError(dir, err)
	}
	info, err := os.Lstat(link)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make the symlink of --pin: %w", err)
	}
	if err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return usage(fmt.Errorf("--pin %s: %s is there already and is no symlink; remove it or name another directory", pinDir, link))
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return pinError(dir, err)
	}
	return nil
}

func pinError(dir string, err error) error {
	return advised{fmt.Errorf("prepare --pin %s: %w; mount a volume there that this user may write, like an emptyDir", dir, err)}
}

// pin makes link a symlink to the revision's directory, atomically, and returns
// it as an absolute path. It replaces a symlink, and follows none.
func pin(link, target string) (string, error) {
	link, err := filepath.Abs(link)
	if err != nil {
		return "", fmt.Errorf("make the symlink of --pin: %w", err)
	}
	tmp, err := linkAside(link, target)
	if err != nil {
		return "", fmt.Errorf("make the symlink of --pin: %w", err)
	}
	if err := os.Rename(tmp, link); err != nil {
		return "", errors.Join(fmt.Errorf("make the symlink of --pin: %w", err), os.Remove(tmp))
	}
	return link, nil
}

// linkAside makes a symlink beside link under a name that is free, or that a kill
// left behind.
func linkAside(link, target string) (string, error) {
	dir, name := filepath.Split(link)
	for i := 0; ; i++ {
		tmp := filepath.Join(dir, fmt.Sprintf(".%s.tmp%d", name, i))
		if info, err := os.Lstat(tmp); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			if err := os.Remove(tmp); err != nil {
				return "", err
			}
		}
		if err := os.Symlink(target, tmp); !errors.Is(err, fs.ErrExist) || i >= 100 {
			return tmp, err
		}
	}
}
