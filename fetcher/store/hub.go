package store

import (
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The hub view is the layout that huggingface_hub's readers expect below
// HF_HUB_CACHE, so that a repository id works offline:
//
//	hub/models--[ORG--]NAME/refs/<revision>      the commit, no newline
//	hub/models--[ORG--]NAME/snapshots/<commit>/  links to the blobs
//	hub/models--[ORG--]NAME/trees/<commit>.json  the files that are here (client >= 1.22)
//
// It is derived from the manifests: several models may show different files of
// one repository, and the view holds them all.

type hubTree struct {
	FormatVersion int                    `json:"format_version"`
	Files         map[string]hubTreeFile `json:"files"`
}

type hubTreeFile struct {
	Size      int64  `json:"size"`
	BlobID    string `json:"blob_id"`
	LFSSHA256 string `json:"lfs_sha256,omitempty"`
	LFSSize   int64  `json:"lfs_size,omitempty"`
}

// splitHubSource reads hf://[ORG/]NAME[@REVISION]; ok is false for other sources.
func splitHubSource(source string) (repo, revision string, ok bool) {
	rest, ok := strings.CutPrefix(source, "hf://")
	if !ok {
		return "", "", false
	}
	repo, revision, _ = strings.Cut(rest, "@")
	return repo, revision, true
}

// hubPrefix begins the names of the view's folders.
const hubPrefix = "models--"

// hubFolder is the folder of a repository in the view. ids have no "--".
func hubFolder(repo string) string {
	return hubPrefix + strings.ReplaceAll(repo, "/", "--")
}

// refreshHub makes the view of source's repository show what is published,
// and pending, which is about to be. Sources other than the Hub have no view.
func (s *Store) refreshHub(source string, pending *Manifest) error {
	repo, _, ok := splitHubSource(source)
	if !ok {
		return nil
	}
	manifests, err := s.manifestsOfRepo(repo)
	if err != nil {
		return err
	}
	if pending != nil {
		manifests = slices.DeleteFunc(manifests, func(m Manifest) bool {
			return m.Name == pending.Name && m.Revision == pending.Revision
		})
		manifests = append(manifests, *pending)
	}
	dir := filepath.Join(s.dir, "hub", hubFolder(repo))
	if len(manifests) == 0 {
		return asStoreError(s.removeAll(dir))
	}
	commits := map[string]map[string]ManifestFile{}
	for _, m := range manifests {
		if commits[m.Revision] == nil {
			commits[m.Revision] = map[string]ManifestFile{}
		}
		for _, f := range m.Files {
			commits[m.Revision][f.Path] = f
		}
	}
	for commit, files := range commits {
		if err := s.writeSnapshot(dir, commit, files); err != nil {
			return fmt.Errorf("hub view of %s: %w", repo, err)
		}
	}
	if err := s.pruneHub(dir, commits); err != nil {
		return asStoreError(err)
	}
	if err := s.writeRefs(filepath.Join(dir, "refs"), pending, manifests); err != nil {
		return fmt.Errorf("hub view of %s: %w", repo, err)
	}
	return nil
}

func (s *Store) manifestsOfRepo(repo string) ([]Manifest, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	var found []Manifest
	for _, name := range names {
		revisions, err := s.Revisions(name)
		if err != nil {
			return nil, err
		}
		for _, m := range revisions {
			if r, _, ok := splitHubSource(m.Source); ok && r == repo {
				found = append(found, m)
			}
		}
	}
	return found, nil
}

func (s *Store) writeSnapshot(dir, commit string, files map[string]ManifestFile) error {
	list := make([]ManifestFile, 0, len(files))
	tree := hubTree{FormatVersion: 1, Files: make(map[string]hubTreeFile, len(files))}
	for _, f := range files {
		list = append(list, f)
		tree.Files[f.Path] = treeFile(f)
	}
	snapshot := filepath.Join(dir, "snapshots", commit)
	if err := s.linkFiles(snapshot, list); err != nil {
		return err
	}
	if err := s.pruneLinks(snapshot, list); err != nil {
		return err
	}
	if err := s.makeDir(filepath.Join(dir, "trees")); err != nil {
		return err
	}
	return s.updateJSON(filepath.Join(dir, "trees", commit+".json"), tree)
}

// treeFile describes a file as the Hub's tree does. For a large file, blob_id
// is the git id of its LFS pointer, whose text is fixed by the LFS
// specification.
func treeFile(f ManifestFile) hubTreeFile {
	if id, ok := strings.CutPrefix(f.VouchedBy, "git-blob:"); ok {
		return hubTreeFile{Size: f.Size, BlobID: id}
	}
	pointer := fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", f.SHA256, f.Size)
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(pointer), pointer))
	return hubTreeFile{Size: f.Size, BlobID: hex.EncodeToString(sum[:]), LFSSHA256: f.SHA256, LFSSize: f.Size}
}

// writeRefs points the revision that pending asked for at its commit. refs/main
// is what readers take without a revision: a pull of anything else writes it only
// if there is none. Where its commit has left, it names what else is published:
// the latest that main meant, or the latest at all.
func (s *Store) writeRefs(refs string, pending *Manifest, published []Manifest) error {
	if pending != nil {
		if revision := askedRevision(*pending); revision != pending.Revision {
			if err := s.writeRef(refs, revision, pending.Revision); err != nil {
				return err
			}
		}
	}
	if _, err := os.Lstat(filepath.Join(refs, mainRef)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	candidates := slices.DeleteFunc(slices.Clone(published), func(m Manifest) bool { return askedRevision(m) != mainRef })
	if len(candidates) == 0 {
		candidates = published
	}
	latest := slices.MaxFunc(candidates, func(a, b Manifest) int {
		return cmp.Or(a.PublishedAt.Compare(b.PublishedAt), cmp.Compare(a.Revision, b.Revision))
	})
	return s.writeRef(refs, mainRef, latest.Revision)
}

// mainRef is the revision that a source without one means.
const mainRef = "main"

// askedRevision is the revision that a manifest's source names.
func askedRevision(m Manifest) string {
	_, revision, _ := splitHubSource(m.Source)
	return cmp.Or(revision, mainRef)
}

// writeRef writes one ref. A ref in the place of its folder, or a folder in its
// own place, is of a branch that the repository no longer has: git allows only
// one of the two.
func (s *Store) writeRef(refs, revision, commit string) error {
	if err := CheckPath(revision); err != nil {
		return err
	}
	path := filepath.Join(refs, filepath.FromSlash(revision))
	if err := s.makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		if err := s.removeAll(path); err != nil {
			return asStoreError(err)
		}
	}
	return s.writeFile(path, []byte(commit), true)
}

// pruneHub removes snapshots, trees and refs of commits that are gone.
func (s *Store) pruneHub(dir string, commits map[string]map[string]ManifestFile) error {
	for sub, suffix := range map[string]string{"snapshots": "", "trees": ".json"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if commits[strings.TrimSuffix(e.Name(), suffix)] != nil {
				continue
			}
			if err := s.removeAll(filepath.Join(dir, sub, e.Name())); err != nil {
				return err
			}
		}
	}
	return filepath.WalkDir(filepath.Join(dir, "refs"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		commit, err := s.readSmall(path, maxNote)
		if err != nil && !errors.Is(err, ErrCorrupt) || err == nil && commits[string(commit)] != nil {
			return err
		}
		return s.removeIfExists(path)
	})
}
