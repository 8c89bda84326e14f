package fetcher

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stoker-project/stoker/fetcher/store"
)

// errLocal is a failure of this machine's disk: no retry of the source helps.
var errLocal = errors.New("local disk")

// transfer brings one content into the store. Its connections write ranges of
// it, in any order; its hashes follow from the front.
type transfer struct {
	pull    *pull
	content content
	file    File

	partial *store.Partial
	order   *inOrder
	tries   int // that did not verify
	// noRanges says that the source gives only the whole file.
	noRanges atomic.Bool
	// spoiled says that the bytes that are here may be of two versions.
	spoiled atomic.Bool

	settling sync.Mutex // a checkpoint and the end do not meet
	settled  bool       // admitted

	// What follows is the dispatcher's alone.

	claims    []*claim
	finishing bool // written whole, being verified
}

// open prepares the transfer. If the content is in the store by now, open
// returns its sha256 and there is nothing to do; otherwise "" and the caller
// closes the partial or ends with finish. waiting is called if another pull
// has the transfer and open waits for it.
func (t *transfer) open(ctx context.Context, waiting func()) (string, error) {
	p := t.pull
	partial, err := p.staging.OpenPartial(ctx, p.partialID(t.file), p.key(t.file), t.file.Size, waiting)
	if err != nil {
		return "", fmt.Errorf("prepare %s: %w", t.file.Path, err)
	}
	t.partial = partial
	if sum, err := t.doneMeanwhile(ctx); sum != "" || err != nil {
		return sum, err
	}
	t.order, err = newInOrder(t.file, partial, p.dropCache, p.wake)
	if err != nil {
		return "", t.local("start over", err)
	}
	p.meter.add(partial.Written().Bytes())
	return "", nil
}

// doneMeanwhile notices that another pull finished the same content since this
// one looked for it, and returns its sha256, or "".
func (t *transfer) doneMeanwhile(ctx context.Context) (string, error) {
	p := t.pull
	sum := t.file.Digest.Hex()
	if t.file.Digest.Algorithm() != SHA256 {
		known, err := p.f.knownContent(p.staging)
		if err != nil {
			return "", err
		}
		if sum = known(p.key(t.file)); sum == "" {
			return "", nil
		}
		if err := p.staging.Keep(ctx, sum); err != nil {
			return "", err
		}
	}
	here, err := p.staging.Has(ctx, sum, t.file.Size, nil)
	if err != nil || !here {
		return "", err
	}
	p.meter.add(t.file.Size)
	partial := t.partial
	t.partial = nil
	return sum, partial.Discard()
}

// gap is the first part of the file that is neither written nor claimed.
func (t *transfer) gap() store.Span {
	if t.noRanges.Load() && len(t.claims) > 0 {
		return store.Span{}
	}
	taken := t.partial.Written()
	for _, c := range t.claims {
		taken = taken.Add(c.span())
	}
	return taken.Gap(t.file.Size)
}

// finish verifies what is written whole, and admits it. It returns "" when the
// bytes do not verify and are to be fetched once more.
func (t *transfer) finish(ctx context.Context) (string, error) {
	p := t.pull
	// To the disk while the last bytes are still being hashed.
	if err := t.partial.Sync(); err != nil {
		return "", t.local("sync", err)
	}
	sum, stated, err := t.order.wait(ctx)
	if err == nil && p.dropCache {
		err = t.partial.DropCache(store.Span{To: t.file.Size})
	}
	t.settling.Lock()
	defer t.settling.Unlock()
	if errors.Is(err, store.ErrLost) {
		return "", t.startOver(lostBytes(t.file, err))
	}
	if err != nil {
		return "", t.local("read back", err)
	}
	sha256Hex := hex.EncodeToString(sum)
	if err := t.file.Digest.verify(sha256Hex, stated); err != nil {
		return "", t.startOver(wrongBytes(t.file, err))
	}
	err = p.staging.Admit(ctx, t.partial, sha256Hex, p.key(t.file))
	if errors.Is(err, store.ErrLost) {
		return "", t.startOver(lostBytes(t.file, err))
	}
	if err != nil {
		return "", fmt.Errorf("admit %s: %w", t.file.Path, err)
	}
	t.settled = true
	return sha256Hex, nil
}

// startOver forgets every byte, to fetch them once more; if that was done before,
// it returns err. t.settling is held.
func (t *transfer) startOver(err error) error {
	p := t.pull
	p.meter.add(-t.file.Size)
	t.order.reset()
	if resetErr := t.partial.Reset(); resetErr != nil {
		return errors.Join(err, t.local("start over", resetErr))
	}
	if t.tries++; t.tries < verifyTries {
		p.tellFetchingAgain(t.file, err)
		return nil
	}
	return err
}

// verifyTries is how often a content is fetched whose bytes do not verify.
const verifyTries = 2

func (p *pull) tellFetchingAgain(f File, err error) {
	p.f.o.Logger.Warn("fetching again what did not verify", "source", p.req.Source.String(), "file", f.Path, "error", err)
}

// lostBytes is a content that the store's file system did not keep.
func lostBytes(f File, err error) error {
	return &Error{
		Kind: ErrCorrupt, Op: "read back", Origin: f.Path, Err: err,
		Hint: "the file was fetched twice and nothing was published; ask whoever runs the store's file system",
	}
}

// wrongBytes is a content that never verified.
func wrongBytes(f File, err error) error {
	hint := "the bytes were fetched twice and discarded; ask whoever runs the source, or whatever stands between"
	if f.Digest.Algorithm() == MD5 { // of a bucket
		hint += "; if the server's ETags are no MD5 of the content, write access.etagIsDigest: false (--etag-is-digest=false)"
	}
	return &Error{Kind: ErrCorrupt, Op: "verify", Origin: f.Path, Err: err, Hint: hint}
}

// checkpoint makes what is written durable, with the hashes' states.
func (t *transfer) checkpoint() error {
	t.settling.Lock()
	defer t.settling.Unlock()
	if t.settled {
		return nil
	}
	hashed, states, err := t.order.states()
	if err == nil {
		err = t.partial.Checkpoint(hashed, states)
	}
	if err != nil {
		return t.local("checkpoint", err)
	}
	return nil
}

func (t *transfer) local(op string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := &Error{Kind: errLocal, Op: op, Origin: t.file.Path, Err: err}
	if !errors.Is(err, ErrNoSpace) { // what to do about that does not depend on the disk
		e.Hint = t.pull.f.o.Store.FailureHint()
	}
	return e
}

// refused drops what is here of a file whose source says that it is not what was
// listed, if nothing else would tell its bytes from the right ones: the next try
// must not build on them.
func (t *transfer) refused(err error) error {
	if t.file.Digest != "" || !errors.Is(err, ErrRefused) && !errors.Is(err, ErrCorrupt) {
		return err
	}
	t.spoiled.Store(true)
	return err
}

// close lets go of a transfer that did not finish: its bytes stay for the next
// try. No connection may be at work on it any more.
func (t *transfer) close() error {
	if t.order != nil {
		t.order.stop()
	}
	if t.partial == nil {
		return nil
	}
	var err error
	if t.spoiled.Load() {
		err = t.partial.Reset()
	}
	// The pull has failed for another reason, and what is lost here counts no longer.
	if closeErr := t.partial.Close(); closeErr != nil {
		t.pull.f.o.Logger.Debug("closing an unfinished transfer", "file", t.file.Path, "error", closeErr)
	}
	return err
}
