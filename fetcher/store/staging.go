package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Staging is what one pull of one model holds while it works: the model's
// lock, and a plan that keeps garbage collection away from what the pull
// counts on. It is safe for concurrent use.
type Staging struct {
	store *Store
	name  string
	lock  *Lock
	plan  *os.File
	// before and after are the store's generations around a publication.
	before, after string
}

// Generations are what [Store.Generation] returned before Publish and returns after it,
// if nobody else has published since. Empty: not known, or nothing was published.
func (g *Staging) Generations() (before, after string) { return g.before, g.after }

// Stage begins a pull of the model. One at a time may; while another has it,
// waiting is called once and Stage waits until that one is done or ctx ends.
// The caller ends it with Close.
func (s *Store) Stage(ctx context.Context, name string, waiting func()) (*Staging, error) {
	if err := checkFolder(name); err != nil {
		return nil, err
	}
	if err := s.Ensure(ctx); err != nil {
		return nil, err
	}
	if _, err := s.Probe(); err != nil {
		return nil, err
	}
	lock, err := s.LockModel(ctx, name, waiting)
	if err != nil {
		return nil, err
	}
	if err := s.Ensure(ctx); err != nil { // it may have waited for long
		return nil, errors.Join(err, lock.Unlock())
	}
	plan, err := s.openPlan(s.planPath(name))
	if err == nil {
		err = s.removeIfExists(s.progressPath(name)) // of a pull that was killed
	}
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return &Staging{store: s, name: name, lock: lock, plan: plan}, nil
}

// Close ends the pull. The plan stays if nothing was published, so that what
// is already here survives a collection until the next try.
func (g *Staging) Close() error {
	errs := []error{g.store.removeIfExists(g.store.progressPath(g.name))}
	if info, err := g.plan.Stat(); err == nil && info.Size() == 0 {
		errs = append(errs, g.Abandon())
	}
	return errors.Join(append(errs, g.plan.Close(), g.lock.Unlock())...)
}

// Abandon forgets the plan without publishing: what it held is published
// already, or not wanted any longer.
func (g *Staging) Abandon() error { return g.store.removeIfExists(g.store.planPath(g.name)) }

// Confirm ends a pull that has found a published revision right: its plan is
// forgotten, and what was hashed anew is still known after a power cut.
func (g *Staging) Confirm(m Manifest) error {
	g.store.syncRecords(m.Files)
	return g.Abandon()
}

// Keep protects content, here or to come, from collection until the pull has
// published or is abandoned.
func (g *Staging) Keep(ctx context.Context, sha256Hex ...string) error {
	if len(sha256Hex) == 0 {
		return nil
	}
	lock, err := g.store.lockLayout(ctx)
	if err != nil {
		return err
	}
	err = g.appendPlan(strings.Join(sha256Hex, "\n"))
	return errors.Join(err, lock.Unlock())
}

// Has says whether the content is in the store and right. What stat cannot
// vouch for is hashed (onRead is told the bytes); what pods may not read, they
// may again; wrong content, and what cannot be read although the volume answers,
// is quarantined and what used it withdrawn. A size that this content cannot have is
// ErrCorrupt: a digest has one content, so whoever stated both is wrong. Call
// Keep first.
func (g *Staging) Has(ctx context.Context, sha256Hex string, size int64, onRead func(int)) (bool, error) {
	info, err := g.store.blobInfo(sha256Hex)
	if err == nil {
		err = g.store.checkRecord(sha256Hex, info)
	}
	most := size
	if errors.Is(err, ErrCorrupt) && info != nil && info.Size() > size {
		// To read it may take for ever, and the source may be wrong.
		most = info.Size()
		err = g.store.checkStated(sha256Hex, most)
	}
	if errors.Is(err, ErrCorrupt) && !errors.Is(err, errUnstated) {
		info, err = g.store.hashBlob(ctx, sha256Hex, most, onRead)
	} else if err == nil {
		err = g.store.showBlob(sha256Hex, info)
	}
	switch {
	case errors.Is(err, ErrCorrupt) && info == nil:
		return false, nil
	case errors.Is(err, ErrCorrupt):
		return false, g.store.quarantine(ctx, map[string]fs.FileInfo{sha256Hex: info})
	case err != nil:
		return false, err
	case info.Size() != size:
		return false, fmt.Errorf("content with sha256 %s has %d bytes, not %d: %w", sha256Hex, info.Size(), size, ErrCorrupt)
	}
	return true, nil
}

// errUnstated is a blob of a size that no manifest states for its content.
var errUnstated error = &worded{ErrCorrupt, "no manifest states that it has that size"}

// checkStated returns errUnstated unless a manifest states that size of the content,
// and else that it has to be hashed.
func (s *Store) checkStated(sha256Hex string, size int64) error {
	users, err := s.users(map[string]bool{sha256Hex: true})
	if err != nil {
		return err
	}
	for _, m := range users {
		if slices.ContainsFunc(m.Files, func(f ManifestFile) bool { return f.SHA256 == sha256Hex && f.Size == size }) {
			return ErrUnverified
		}
	}
	return fmt.Errorf("blob %s has %d bytes: %w", sha256Hex, size, errUnstated)
}

// Admit turns a finished, synced partial into a blob named by its sha256. The
// caller has verified the bytes as they came; where the file system is not
// [Volume.Local], or another agent may have written into the partial, they are read
// back first. ErrLost says that they are others: reset the partial.
// Content that is already here is kept and the partial dropped. The key, one line
// without control characters, is how Finished tells the content again.
func (g *Staging) Admit(ctx context.Context, p *Partial, sha256Hex, key string) error {
	if err := checkSHA256(sha256Hex); err != nil {
		return err
	}
	if err := g.readBack(ctx, p, sha256Hex); err != nil {
		return err
	}
	lock, err := g.store.lockLayout(ctx)
	if err != nil {
		return err
	}
	return errors.Join(g.admit(p, sha256Hex, key), lock.Unlock())
}

func (g *Staging) admit(p *Partial, sha256Hex, key string) error {
	if err := p.fail(nil); err != nil {
		return err // a checkpoint heard of it, and the last sync did not
	}
	if err := g.appendPlan(sha256Hex + " " + key); err != nil {
		return err
	}
	info, err := p.file.Stat()
	if err == nil {
		err = p.own()
	}
	if err != nil {
		return err
	}
	if g.store.statBlob(sha256Hex, info.Size()) == nil {
		return p.Discard()
	}
	blob := g.store.BlobPath(sha256Hex)
	if err := g.store.moveIn(p.path, blob); err != nil {
		return fmt.Errorf("move content into place: %w", asStoreError(err))
	}
	// What was moved is what had the name.
	if same, err := sameFile(p.file, blob); err != nil || !same {
		return errors.Join(err, g.store.removeIfExists(blob), &worded{ErrLost, "another file has taken the place of " + p.path})
	}
	// Not before: a kill would leave a transfer that who is not root cannot open.
	if err := p.file.Chmod(blobMode); err != nil {
		return asStoreError(err)
	}
	if err := syncDir(filepath.Dir(blob)); err != nil {
		return asStoreError(err)
	}
	if err := g.store.removeIfExists(p.journalPath()); err != nil {
		return err
	}
	if p.judged != nil {
		info = p.judged
	} else if info, err = os.Lstat(blob); err != nil {
		return err
	}
	return errors.Join(g.store.writeRecord(sha256Hex, info), p.Close())
}
