package store

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// formatVersion is the version of manifests that this package writes. Newer
// ones are left alone.
const formatVersion = 1

// Manifest is the list of files of one revision of one model. That it exists
// in the store means: published.
type Manifest struct {
	FormatVersion int    `json:"formatVersion"`
	Name          string `json:"name"`
	// Source as it was asked for, revision included.
	Source   string `json:"source"`
	Revision string `json:"revision"`
	// Bytes is the sum of the files' sizes.
	Bytes int64 `json:"bytes"`
	// Include, Also and Exclude are the patterns that chose the files, and FileFormat is
	// the format that was asked for; empty: as vLLM decides.
	Include    []string `json:"include,omitempty"`
	Also       []string `json:"also,omitempty"`
	Exclude    []string `json:"exclude,omitempty"`
	FileFormat string   `json:"fileFormat,omitempty"`
	// Selection is the version of the rules that chose the files; 0 in manifests of
	// stokers that recorded none.
	Selection   int            `json:"selection,omitempty"`
	PublishedAt time.Time      `json:"publishedAt"`
	Files       []ManifestFile `json:"files"`
}

// ManifestFile is one file of a revision.
type ManifestFile struct {
	Path string `json:"path"`
	// Size in bytes.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// VouchedBy is the digest that the source stated and that the bytes were
	// held against ("sha256:...", "git-blob:..."); empty if the source states
	// none: then SHA256 is only what arrived.
	VouchedBy string `json:"vouchedBy,omitempty"`
	// Version is what pinned the content at the source where no digest does (an
	// ETag, a generation, a modification time); it finds the content again.
	Version string `json:"version,omitempty"`
}

// errNewer is a manifest that a newer stoker wrote: it may be published, but
// what it promises is not known here.
var errNewer = errors.New("use a newer stoker")

// check refuses a manifest that is damaged or tries to leave the store, so
// that one read from disk is as good as one just made.
func (m *Manifest) check() error {
	if m.FormatVersion > formatVersion {
		return fmt.Errorf("manifest of %s@%s has format %d, this stoker knows up to %d: %w", m.Name, m.Revision, m.FormatVersion, formatVersion, errNewer)
	}
	if m.FormatVersion < 1 || len(m.Files) == 0 {
		return fmt.Errorf("manifest of %s@%s has format %d and %d files: %w", m.Name, m.Revision, m.FormatVersion, len(m.Files), ErrCorrupt)
	}
	if err := CheckRevision(m.Revision); err != nil {
		return err
	}
	if err := checkFolder(m.Name); err != nil {
		return err
	}
	var sum int64
	seen := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		if err := CheckPath(f.Path); err != nil {
			return err
		}
		if err := checkSHA256(f.SHA256); err != nil {
			return err
		}
		if f.Size < 0 || f.Size > math.MaxInt64-sum || seen[f.Path] {
			return fmt.Errorf("manifest of %s@%s lists %q twice or with an impossible size: %w", m.Name, m.Revision, f.Path, ErrCorrupt)
		}
		seen[f.Path] = true
		sum += f.Size
	}
	folders := map[string]bool{".": true}
	for _, f := range m.Files {
		for dir := path.Dir(f.Path); !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
			if seen[dir] {
				return fmt.Errorf("manifest of %s@%s has %q as a file and as a folder: %w", m.Name, m.Revision, dir, ErrCorrupt)
			}
		}
	}
	if sum != m.Bytes {
		return fmt.Errorf("manifest of %s@%s says %d bytes, its files sum to %d: %w", m.Name, m.Revision, m.Bytes, sum, ErrCorrupt)
	}
	return nil
}

// CheckSize returns an error if the manifest would be larger than any that is read, 64
// MiB: it is to be asked before the files are fetched.
func (m *Manifest) CheckSize() error {
	data, err := encodeJSON(m)
	if err == nil && len(data) > maxList {
		err = fmt.Errorf("the list of its %d files would have %d MiB, and a manifest has %d at most", len(m.Files), len(data)>>20, maxList>>20)
	}
	return err
}

// Manifest reads the manifest of one revision; ErrNotFound if it is not
// published, ErrCorrupt if it is damaged. Its lists are shared by all who read
// it: do not change them.
func (s *Store) Manifest(name, revision string) (Manifest, error) {
	if err := errors.Join(checkFolder(name), CheckRevision(revision)); err != nil {
		return Manifest{}, err
	}
	real, err := isRealDir(s.manifestDir(name))
	if err != nil && !s.removed(err) {
		return Manifest{}, err
	}
	if !real { // a link could lead anywhere: what it shows is not published
		return Manifest{}, fmt.Errorf("%s@%s: %w", name, revision, ErrNotFound)
	}
	path := s.manifestPath(name, revision)
	data, err := s.readSmall(path, maxList)
	if s.removed(err) {
		return Manifest{}, fmt.Errorf("%s@%s: %w", name, revision, ErrNotFound)
	}
	if err = s.blame(err); err != nil {
		return Manifest{}, err
	}
	digest := sha256.Sum256(data)
	if m, ok := s.manifests.get(name, revision, digest); ok {
		return m, nil
	}
	var m Manifest
	if err := unmarshal(path, data, &m); err != nil {
		return Manifest{}, err
	}
	if err := m.check(); err != nil {
		return Manifest{}, err
	}
	if m.Name != name || m.Revision != revision {
		return Manifest{}, fmt.Errorf("manifest of %s@%s says it is %s@%s: %w", name, revision, m.Name, m.Revision, ErrCorrupt)
	}
	m.share()
	s.manifests.put(m, digest)
	return m, nil
}

// Lookup returns the manifest of the model's published revision: the one that
// current points to, or the newest if a crash left current on one that was
// never published. ErrNotFound if there is none.
func (s *Store) Lookup(name string) (Manifest, error) {
	if err := checkFolder(name); err != nil {
		return Manifest{}, err
	}
	target, err := os.Readlink(s.currentPath(name))
	if err == nil && CheckRevision(target) == nil {
		m, err := s.Manifest(name, target)
		if !errors.Is(err, ErrNotFound) {
			return m, err
		}
	}
	revisions, err := s.Revisions(name)
	if err != nil {
		return Manifest{}, err
	}
	if len(revisions) == 0 {
		return Manifest{}, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return revisions[0], nil
}

// Revisions returns the manifests of a model's published revisions, newest
// first. Damaged ones are left out: they are not published. So are those of a
// newer stoker, about which this one can say nothing.
func (s *Store) Revisions(name string) ([]Manifest, error) {
	revisions, err := s.manifestNames(name)
	if err != nil {
		return nil, err
	}
	s.manifests.retainRevisions(name, revisions)
	var all []Manifest
	for _, revision := range revisions {
		m, err := s.Manifest(name, revision)
		if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) || errors.Is(err, errNewer) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Manifest) int {
		return cmp.Or(b.PublishedAt.Compare(a.PublishedAt), cmp.Compare(a.Revision, b.Revision))
	})
	return all, nil
}

// manifestDir holds the manifests of a model.
func (s *Store) manifestDir(name string) string {
	return filepath.Join(s.dir, "manifests", name)
}

// manifestNames lists the revisions that have a manifest file, good or not.
func (s *Store) manifestNames(name string) ([]string, error) {
	if err := checkFolder(name); err != nil {
		return nil, err
	}
	real, err := isRealDir(s.manifestDir(name))
	if s.removed(err) {
		return nil, nil
	}
	if err != nil || !real {
		return nil, err
	}
	entries, err := os.ReadDir(s.manifestDir(name))
	if s.removed(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var revisions []string
	for _, e := range entries {
		if revision, ok := strings.CutSuffix(e.Name(), ".json"); ok && !isTemp(e.Name()) {
			revisions = append(revisions, revision)
		}
	}
	return revisions, nil
}

// Damaged returns the revisions of a model that have a manifest here which
// cannot be read.
func (s *Store) Damaged(name string) ([]string, error) {
	revisions, err := s.manifestNames(name)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(revisions, func(revision string) bool {
		_, err := s.Manifest(name, revision)
		return !errors.Is(err, ErrCorrupt)
	}), nil
}

// Names returns the names that have a manifest folder, sorted.
func (s *Store) Names() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "manifests"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Published returns the current manifest of every published model, by name.
func (s *Store) Published() ([]Manifest, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	s.manifests.retainNames(names)
	var all []Manifest
	for _, name := range names {
		m, err := s.Lookup(name)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) || errors.Is(err, errNewer) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}
