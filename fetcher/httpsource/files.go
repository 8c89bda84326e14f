package httpsource

import (
	"crypto/sha256"
	"fmt"

	"github.com/stoker-project/stoker/fetcher"
)

// Bounds on one listing: far above what any model has.
const (
	// MaxFiles is how many files a model may have.
	MaxFiles = 100_000
	// maxEntries is how many folders and markers it may have with them.
	maxEntries = 2 * MaxFiles
	// maxPages is in how many answers they may come.
	maxPages = 2000
	// maxNames bounds the names and versions of all files together, in bytes.
	maxNames = 32 << 20
)

// Files collects the files of a listing, page by page, and refuses a listing that
// no model has: too many files, a page or a file that comes twice.
type Files struct {
	files   []fetcher.File
	paths   map[string]struct{}
	pages   map[[sha256.Size]byte]struct{}
	entries int
	names   int64
}

// Page begins a page. token is what it was asked for by: a server that answers
// with the same twice would never end.
func (l *Files) Page(token string) error {
	if l.pages == nil {
		l.pages = map[[sha256.Size]byte]struct{}{}
	}
	key := sha256.Sum256([]byte(token))
	if _, again := l.pages[key]; again {
		return tooLarge("", "names a page of its list as the next one for the second time: the list would never end")
	}
	l.pages[key] = struct{}{}
	if len(l.pages) > maxPages {
		return tooLarge("", "has more than %d pages in its list, which seems to never end", maxPages)
	}
	return nil
}

// Skip counts an entry that is no file.
func (l *Files) Skip() error {
	if l.entries++; l.entries > maxEntries {
		return tooLarge("", "lists more than %d entries: this is no model", maxEntries)
	}
	return nil
}

// Add takes one file.
func (l *Files) Add(f fetcher.File) error {
	if err := l.Skip(); err != nil {
		return err
	}
	if len(l.files) == MaxFiles {
		e := tooLarge("", "lists more than %d files: this is no model", MaxFiles)
		e.Hint = "name a source, or a folder of it, that holds one model"
		return e
	}
	if l.names += int64(len(f.Path) + len(f.Version) + len(f.Digest)); l.names > maxNames {
		return tooLarge("", "lists names and versions of more than %d MiB: this is no model", maxNames>>20)
	}
	if l.paths == nil {
		l.paths = map[string]struct{}{}
	}
	if _, again := l.paths[f.Path]; again {
		return &Exceeded{Kind: fetcher.ErrCorrupt, Reason: fmt.Sprintf("lists the file %q twice", Plain(f.Path)), Hint: "do not trust this source"}
	}
	l.paths[f.Path] = struct{}{}
	l.files = append(l.files, f)
	return nil
}

// All returns the files in the order in which they came.
func (l *Files) All() []fetcher.File { return l.files }
