package fetcher

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// pull is one pull at work: it turns a list of files into verified blobs.
type pull struct {
	f        *Fetcher
	req      Request
	source   Source // of objects: see [Listing.Source]
	revision string
	read     *readFile // was fetched while files were chosen; nil: none was
	rules    int       // the version of those that chose the files
	staging  *store.Staging
	meter    *meter
	driver   Driver
	gate     gate
	// dropCache says that the pull brings more than the page cache is to hold.
	dropCache bool

	received   atomic.Int64 // bytes, for the pace: in a buffer, or written
	downloaded atomic.Int64
	throttled  atomic.Bool   // the source asked for patience since the last look
	starved    atomic.Bool   // a connection waits for the front of a file to move
	woken      chan struct{} // it has moved, or the way is another than was thought

	mu   sync.Mutex
	way  way
	sums map[string]string // content key -> sha256
}

// content is one thing to have: files with the same identifying digest are one.
type content struct {
	file File
	// sha256 is known from the source or from an earlier pull, or "".
	sha256 string
	files  int
}

// key tells contents apart: by a digest that identifies them, else by where they
// are and what pins them there: the file's own version, so that a change of
// another file of the source costs this one nothing, or the revision.
func (p *pull) key(f File) string {
	return contentKey(f, p.req.Source, p.revision)
}

func contentKey(f File, src Source, revision string) string {
	switch {
	case f.Digest.identifies():
		return string(f.Digest)
	case f.Version != "":
		// Versions are the source's text: quoted, they cannot end a line of a plan.
		return fmt.Sprintf("%s/%s@%q/%d/%s", src.WithoutRevision(), f.Path, f.Version, f.Size, f.Digest)
	}
	return src.WithoutRevision() + "@" + revision + "/" + f.Path
}

// run makes every content present and verified.
func (p *pull) run(ctx context.Context, files []File, known knownContent) error {
	contents := p.contents(files, known)
	missing, err := p.findMissing(ctx, contents)
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		return nil
	}
	need := int64(0)
	for _, c := range missing {
		held, err := p.f.o.Store.PartialBytes(p.partialID(c.file))
		if err != nil {
			return err
		}
		need += max(0, c.file.Size-held)
	}
	if err := p.f.o.Admit(ctx, need); err != nil {
		return err
	}
	if p.driver, err = p.f.o.Drivers[p.req.Source.Scheme](p.req.Access); err != nil {
		return err
	}
	p.dropCache = need > cmp.Or(p.req.Cache, p.f.o.Memory/2)
	p.meter.phase(PhasePulling)
	// The largest first: the pull is over when the last one is.
	slices.SortStableFunc(missing, func(a, b content) int { return cmp.Compare(b.file.Size, a.file.Size) })
	return p.transferAll(ctx, missing)
}

// wasRead returns the content of a file that was fetched while files were chosen: it is
// not asked for again.
func (p *pull) wasRead(f File) []byte {
	if p.read == nil || p.key(p.read.file) != p.key(f) || f.Size > batchBytes {
		return nil
	}
	return p.read.content
}

// look has the dispatcher look again.
func (p *pull) look() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// wake has the dispatcher look again, if it waits for a file's front.
func (p *pull) wake() {
	if p.starved.Load() {
		p.look()
	}
}

// contents folds files with one digest together.
func (p *pull) contents(files []File, known knownContent) []content {
	var all []content
	index := map[string]int{}
	var total int64
	for _, f := range files {
		total += f.Size
		k := p.key(f)
		if i, ok := index[k]; ok {
			all[i].files++
			continue
		}
		c := content{file: f, files: 1}
		c.sha256 = known(k)
		if f.Digest.Algorithm() == SHA256 {
			c.sha256 = f.Digest.Hex()
		}
		index[k] = len(all)
		all = append(all, c)
	}
	p.meter.begin(p.revision, total, len(files))
	return all
}

// findMissing checks what is in the store already and returns the rest.
func (p *pull) findMissing(ctx context.Context, contents []content) ([]content, error) {
	var hashes []string
	for _, c := range contents {
		if c.sha256 != "" {
			hashes = append(hashes, c.sha256)
		}
	}
	if err := p.staging.Keep(ctx, hashes...); err != nil {
		return nil, err
	}
	p.meter.phase(PhaseVerifying)
	var missing []content
	for _, c := range contents {
		if c.sha256 != "" {
			here, err := p.staging.Has(ctx, c.sha256, c.file.Size, nil)
			if err != nil {
				return nil, fmt.Errorf("look for %s: %w", c.file.Path, err)
			}
			if here {
				p.found(c, c.sha256)
				p.meter.add(c.file.Size * int64(c.files))
				continue
			}
		}
		missing = append(missing, c)
		// Further files of the same content come with the first.
		p.meter.add(c.file.Size * int64(c.files-1))
	}
	return missing, nil
}

func (p *pull) found(c content, sum string) {
	p.mu.Lock()
	p.sums[p.key(c.file)] = sum
	p.mu.Unlock()
	p.meter.filesDone(c.files)
}

// partialID names the transfer: by the content where the source tells it, so
// that two models share it.
func (p *pull) partialID(f File) string {
	if f.Digest.Algorithm() == SHA256 {
		return f.Digest.Hex()
	}
	sum := sha256.Sum256([]byte(p.key(f)))
	return hex.EncodeToString(sum[:])
}

// checkManifestSize refuses a choice of files that no manifest can list, while none of
// them is fetched.
func (p *pull) checkManifestSize(files []File) error {
	m := p.manifest(files)
	m.PublishedAt = time.Now().UTC()
	for i := range m.Files {
		m.Files[i].SHA256 = strings.Repeat("0", 2*sha256.Size)
	}
	if err := m.CheckSize(); err != nil {
		return &Error{Kind: ErrRefused, Op: "list files of", Origin: p.req.Source.String(), Err: err, Hint: "choose fewer files with include or exclude, or name a folder that holds one model"}
	}
	return nil
}

// manifest lists what was pulled, sorted by path.
func (p *pull) manifest(files []File) store.Manifest {
	m := store.Manifest{
		FormatVersion: 1, Name: p.req.Name, Source: p.req.Source.String(), Revision: p.revision,
		Include: p.req.Include, Also: p.req.Also, Exclude: p.req.Exclude, FileFormat: p.req.choice().recordedFormat(), Selection: p.rules,
	}
	for _, f := range files {
		m.Bytes += f.Size
		mf := store.ManifestFile{Path: f.Path, Size: f.Size, SHA256: p.sums[p.key(f)], VouchedBy: string(f.Digest), Version: f.Version}
		m.Files = append(m.Files, mf)
	}
	slices.SortFunc(m.Files, func(a, b store.ManifestFile) int { return cmp.Compare(a.Path, b.Path) })
	return m
}
