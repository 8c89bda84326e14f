package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/stoker-project/stoker/fetcher"
)

// tree is a source's directory, and where its links may end. Whoever writes there may
// make links to whatever this process can read, at any time: every file is opened
// below one of the places (os.Root), so that a link that is made between a look and
// the opening leads nowhere else.
type tree struct {
	op operation
	// dir is the directory with all links on the way to it resolved.
	dir string
	// places are the directory itself and where else its links may end.
	places []place
}

// place is where files may be: below within, in a directory that nobody leaves who
// opens something below it. Paths are resolved.
type place struct{ root, within string }

// openTree resolves the directory of a source. It may be a link: the source names it.
func openTree(op operation, dir string, followLinks []string) (*tree, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, op.classify(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, op.classify(err)
	}
	if !info.IsDir() {
		return nil, op.fail(fetcher.ErrRefused, errors.New("it is no directory"), "name the directory that holds the model's files")
	}
	t := &tree{op: op, dir: dir, places: []place{{dir, dir}}}
	if blobs, ok := hubBlobs(dir); ok {
		// The folder could become a link, too.
		t.places = append(t.places, place{filepath.Dir(blobs), blobs})
	}
	for _, other := range followLinks {
		// One that is not there lets nothing through.
		if resolved, err := filepath.EvalSymlinks(other); err == nil {
			t.places = append(t.places, place{resolved, resolved})
		}
	}
	return t, nil
}

// hubBlobs returns where the files of a snapshot of the Hub's own cache are:
// models--[ORG--]NAME/blobs for models--[ORG--]NAME/snapshots/COMMIT. It must be a real
// directory, or it could be any other.
func hubBlobs(dir string) (string, bool) {
	commit, snapshots := filepath.Base(dir), filepath.Dir(dir)
	repository := filepath.Dir(snapshots)
	if !isCommit(commit) || filepath.Base(snapshots) != "snapshots" || !strings.HasPrefix(filepath.Base(repository), "models--") {
		return "", false
	}
	blobs := filepath.Join(repository, "blobs")
	info, err := os.Lstat(blobs)
	return blobs, err == nil && info.IsDir()
}

func isCommit(name string) bool {
	return len(name) == 40 && !strings.ContainsFunc(name, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}

// open opens the file with this name below the directory, whatever it is: it does
// not wait for pipes. A link that ends in none of the places is ErrRefused.
func (t *tree) open(name string, flags int) (*os.File, error) {
	root, rest, err := t.resolve(name)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(rest, flags, 0)
	if err != nil {
		return nil, t.refuseEscape(name, err)
	}
	return f, nil
}

// stat describes the file with this name, without opening it.
func (t *tree) stat(name string) (fs.FileInfo, error) {
	root, rest, err := t.resolve(name)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Stat(rest)
	if err != nil {
		return nil, t.refuseEscape(name, err)
	}
	return info, nil
}

// refuseEscape classifies an error of os.Root, whose own is none of the system's: what
// it was asked for leads out of it.
func (t *tree) refuseEscape(name string, err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return t.op.classify(err)
	}
	return t.op.fail(fetcher.ErrRefused, fmt.Errorf("%q has become a link that leads out of the directory: %w", name, err), "let nothing write to the directory while it is read, and pull again")
}

// resolve opens the root in which the file with this name ends, and returns its name
// there.
func (t *tree) resolve(name string) (root *os.Root, rest string, err error) {
	end, err := filepath.EvalSymlinks(filepath.Join(t.dir, name))
	if err != nil {
		return nil, "", t.op.classify(fmt.Errorf("%q: %w", name, err))
	}
	for _, p := range t.places {
		if below, err := filepath.Rel(p.within, end); err != nil || !filepath.IsLocal(below) {
			continue
		}
		if rest, err = filepath.Rel(p.root, end); err != nil {
			return nil, "", t.op.classify(err)
		}
		if root, err = os.OpenRoot(p.root); err != nil {
			return nil, "", t.op.classify(err)
		}
		return root, rest, nil
	}
	return nil, "", t.op.fail(fetcher.ErrRefused, fmt.Errorf("%q is a link to %q, outside of the directory", t.link(name), end),
		fmt.Sprintf("exclude it, copy in what it stands for, or, if whoever writes there may have that read, name its folder with --follow-links %s, in a model list with access.followLinks", filepath.Dir(end)))
}

// link returns the first part of a name that is a link.
func (t *tree) link(name string) string {
	at := ""
	for part := range strings.SplitSeq(name, string(filepath.Separator)) {
		at = filepath.Join(at, part)
		if info, err := os.Lstat(filepath.Join(t.dir, at)); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return at
		}
	}
	return name
}

// walk calls see with the name of every file below the directory, and what Lstat
// shows of it, in the order of names. It enters no link.
func (t *tree) walk(see func(name string, info fs.FileInfo) error) error {
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return t.op.classify(err)
	}
	defer root.Close()
	return t.walkBelow(root, ".", see)
}

func (t *tree) walkBelow(root *os.Root, dir string, see func(name string, info fs.FileInfo) error) error {
	names, err := readNames(root, dir)
	if err != nil {
		return t.op.classify(err)
	}
	for _, name := range names {
		name = filepath.Join(dir, name)
		info, err := root.Lstat(name)
		if err != nil {
			return t.op.classify(err)
		}
		if info.IsDir() {
			err = t.walkBelow(root, name, see)
		} else {
			err = see(name, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readNames(root *os.Root, dir string) ([]string, error) {
	f, err := root.OpenFile(dir, openToRead, 0)
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, errors.Join(err, f.Close())
}
