package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// errReplaced is something else in the place of what was looked at.
var errReplaced = errors.New("something else has taken its place")

// special are the bits of a mode by which a file is more than its content.
const special = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// shown says that everybody may do with a file or folder what mode allows to all.
func shown(info fs.FileInfo, mode fs.FileMode) bool {
	return info.Mode().Perm()&mode == mode
}

// shownBlob reports whether every pod may read a blob, and nobody may do more with it.
// Special bits mean nothing where nobody may run the file, and are its other names', too,
// where it has some.
func shownBlob(info fs.FileInfo) bool {
	return shown(info, blobMode) && (info.Mode()&special == 0 || names(info) > 1 && info.Mode()&0o111 == 0)
}

// modeProblem returns what is wrong with the mode of a blob, nil if nothing is. It is an
// ErrCorrupt that says nothing about the content.
func modeProblem(sha256Hex string, info fs.FileInfo) error {
	switch {
	case shownBlob(info):
		return nil
	case !shown(info, blobMode):
		return &worded{ErrCorrupt, fmt.Sprintf("blob %s has mode %s, so that not every pod may read it", sha256Hex, info.Mode())}
	}
	return &worded{ErrCorrupt, fmt.Sprintf("blob %s has mode %s, which is more than to be read", sha256Hex, info.Mode())}
}

// showBlob lets everybody read a blob, whose bytes are known to be right, and takes
// setuid, setgid and sticky bits off. ErrCorrupt if that cannot be, since the file
// system refuses it or the file has another name as well: then another one must take
// its place.
func (s *Store) showBlob(sha256Hex string, info fs.FileInfo) error {
	if shownBlob(info) {
		return nil
	}
	if n := names(info); n > 1 {
		return &worded{ErrCorrupt, fmt.Sprintf("%s; its content is right, but the file has %d names and the mode is theirs, too: remove the other names, or pull again for a file of its own",
			modeProblem(sha256Hex, info), n)}
	}
	err := chmodSame(s.BlobPath(sha256Hex), info, blobMode)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errReplaced) {
		return &worded{ErrCorrupt, fmt.Sprintf("%s; its content is right, but the mode cannot be changed (%v): change it, or pull again", modeProblem(sha256Hex, info), err)}
	}
	if err != nil {
		return fmt.Errorf("let pods read blob %s: %w", sha256Hex, asStoreError(err))
	}
	info, err = s.blobInfo(sha256Hex)
	if err == nil && !shownBlob(info) {
		err = volumeAt(s.dir).unfit(onlyMode(info))
	}
	return err
}

// openToAll lets the world read a directory. follow says that it may be a link.
func openToAll(dir string, follow bool) error {
	look := os.Lstat
	if follow {
		look = os.Stat
	}
	info, err := look(dir)
	if err != nil || shown(info, shownDir) {
		return err
	}
	if follow {
		return os.Chmod(dir, info.Mode()&(fs.ModePerm|special)|shownDir) //nolint:forbidigo // it lets read, and every writer does the same
	}
	return chmodSame(dir, info, info.Mode()&(fs.ModePerm|special)|shownDir)
}

// shownDir is only what readers need: whether the owner may write is the owner's
// to say.
const shownDir = dirMode &^ 0o200

// chmodSame gives the file or directory that was seen at path another mode, and
// nothing that has taken its place since: errReplaced.
func chmodSame(path string, seen fs.FileInfo, mode fs.FileMode) error {
	// Not to read: whose mode is wrong may not be read.
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0) //nolint:forbidigo // it is not written
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(now, seen) || now.Mode().IsRegular() && names(now) > 1 {
		return fmt.Errorf("%s: %w", path, errReplaced)
	}
	// What is open in this way has no fchmod.
	if err := os.Chmod("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), mode); err != nil { //nolint:forbidigo // it lets read, and every writer does the same
		return &fs.PathError{Op: "chmod", Path: path, Err: cause(err)}
	}
	return nil
}
