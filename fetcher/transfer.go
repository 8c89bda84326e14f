package fetcher

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// How a transfer writes. At most one buffer a connection is lost to a kill;
// a power cut loses what was written since the last checkpoint.
const (
	bufferSize      = 1 << 20
	checkpointBytes = 1 << 30
	checkpointEvery = 5 * time.Second
)

// errLocal is a failure of this machine's disk: no retry of the source helps.
var errLocal = errors.New("local disk")

// errStalled is a connection that brought no byte for the stall timeout.
var errStalled = errors.New("no byte arrived for too long")

// transfer brings one file into the store.
type transfer struct {
	pull   *pull
	driver Driver
	file   File

	partial *store.Partial
	sum     hash.Hash // sha256 over what is written
	stated  hash.Hash // the algorithm that the source vouches with, if another

	lastCheckpoint time.Time
}

// run returns the sha256 of the verified content, which is admitted then.
func (t *transfer) run(ctx context.Context) (string, error) {
	sum, err := t.fetch(ctx)
	if err == nil || t.partial == nil {
		return sum, err
	}
	// The bytes stay for the next try; closing only lets go of the lock.
	return "", errors.Join(err, t.partial.Close())
}

func (t *transfer) fetch(ctx context.Context) (string, error) {
	p := t.pull
	partial, err := p.staging.OpenPartial(ctx, p.partialID(t.file), p.key(t.file), t.file.Size)
	if err != nil {
		return "", fmt.Errorf("prepare %s: %w", t.file.Path, err)
	}
	t.partial = partial
	if sum, err := t.doneMeanwhile(ctx); sum != "" || err != nil {
		return sum, err
	}
	if err := t.resume(ctx); err != nil {
		return "", fmt.Errorf("resume %s: %w", t.file.Path, err)
	}
	for try := 1; ; try++ {
		if err := t.stream(ctx); err != nil {
			return "", err
		}
		sum := hex.EncodeToString(t.sum.Sum(nil))
		err := t.file.Digest.verify(sum, t.stated)
		if err == nil {
			return sum, t.admit(ctx, sum)
		}
		err = &Error{
			Kind: ErrCorrupt, Op: "verify", Origin: t.file.Path, Err: err,
			Hint: "the bytes were fetched twice and discarded; ask whoever runs the source, or whatever stands between",
		}
		if try == 2 {
			return "", errors.Join(err, t.startOver())
		}
		p.f.o.Logger.Warn("fetching again what did not verify", "source", p.req.Source.String(), "file", t.file.Path)
		if err := t.startOver(); err != nil {
			return "", err
		}
	}
}

// doneMeanwhile notices that another pull finished the same content since this
// one looked for it, and returns its sha256, or "".
func (t *transfer) doneMeanwhile(ctx context.Context) (string, error) {
	p := t.pull
	sum := t.file.Digest.Hex()
	if t.file.Digest.Algorithm() != SHA256 {
		if !t.partial.Waited && t.file.Size < bufferSize {
			return "", nil // dearer to find out than to fetch
		}
		known, err := p.f.knownContent(p.staging)
		if err != nil {
			return "", err
		}
		if sum = known[p.key(t.file)]; sum == "" {
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

func (t *transfer) admit(ctx context.Context, sum string) error {
	if err := t.partial.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", t.file.Path, err)
	}
	if err := t.pull.staging.Admit(ctx, t.partial, sum, t.pull.key(t.file)); err != nil {
		return fmt.Errorf("admit %s: %w", t.file.Path, err)
	}
	return nil
}

func (t *transfer) newHashes() {
	t.sum, t.stated = sha256.New(), t.file.Digest.newHash(t.file.Size)
}

func (t *transfer) startOver() error {
	t.pull.meter.add(-t.partial.Written)
	t.newHashes()
	return t.partial.Reset()
}

// resume brings the hashes to where the partial's bytes end: the journal's
// states, then what was written after it, read back from the page cache.
func (t *transfer) resume(ctx context.Context) error {
	t.newHashes()
	t.lastCheckpoint = time.Now()
	at := t.partial.Journal.Offset
	// Where the source states no sha256, only the bytes themselves tell it: a
	// damaged state in the journal would go unnoticed.
	if err := t.restoreHashes(); err != nil || t.file.Digest.Algorithm() != SHA256 {
		t.newHashes()
		at = 0 // the bytes are good all the same: hash them again
	}
	buf := make([]byte, bufferSize)
	for at < t.partial.Written {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := t.partial.ReadAt(buf[:min(int64(len(buf)), t.partial.Written-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			return fmt.Errorf("the partial file became shorter: %w", ErrCorrupt)
		}
		t.hash(buf[:n])
		at += int64(n)
	}
	t.pull.meter.add(t.partial.Written)
	return nil
}

func (t *transfer) hash(b []byte) {
	t.sum.Write(b)
	if t.stated != nil {
		t.stated.Write(b)
	}
}

func (t *transfer) hashes() []hash.Hash {
	if t.stated == nil {
		return []hash.Hash{t.sum}
	}
	return []hash.Hash{t.sum, t.stated}
}

func (t *transfer) restoreHashes() error {
	if t.partial.Journal.Offset == 0 {
		return nil
	}
	states := t.partial.Journal.Hashes
	if len(states) != len(t.hashes()) {
		return errors.New("the journal has the states of other hashes")
	}
	for i, h := range t.hashes() {
		u, ok := h.(encoding.BinaryUnmarshaler)
		if !ok {
			return fmt.Errorf("hash %T cannot be restored", h)
		}
		if err := u.UnmarshalBinary(states[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *transfer) checkpoint() error {
	var states [][]byte
	for _, h := range t.hashes() {
		m, ok := h.(encoding.BinaryMarshaler)
		if !ok {
			return fmt.Errorf("hash %T cannot be saved", h)
		}
		state, err := m.MarshalBinary()
		if err != nil {
			return err
		}
		states = append(states, state)
	}
	t.lastCheckpoint = time.Now()
	return t.partial.Checkpoint(states)
}

// stream fetches until the file is complete, over as many connections as it
// takes, one after the other.
func (t *transfer) stream(ctx context.Context) error {
	p := t.pull
	return p.f.retry(ctx, "fetch "+t.file.Path, &p.gate, func(ctx context.Context) (bool, error) {
		before := t.partial.Written
		if before == t.file.Size && before > 0 {
			return false, nil
		}
		err := t.connection(ctx)
		return t.partial.Written > before, err
	})
}

// connection reads one body into the partial.
func (t *transfer) connection(ctx context.Context) (err error) {
	p := t.pull
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := p.f.o.StallTimeout
	watchdog := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watchdog.Stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errStalled) {
			err = &Error{Kind: ErrTransient, Op: "read", Origin: t.file.Path, Err: fmt.Errorf("%w (%s)", errStalled, stall), Hint: "check the network"}
		}
	}()
	body, err := t.driver.Open(ctx, Object{Source: p.req.Source, Revision: p.revision, File: t.file}, t.partial.Written, t.file.Size-t.partial.Written)
	if err != nil {
		return err
	}
	defer body.Close()
	buf := make([]byte, bufferSize)
	for {
		n, readErr := fill(ctx, body, buf, func(n int) error {
			watchdog.Stop() // waiting for our own limit is no stall
			err := p.f.throttle(ctx, n)
			watchdog.Reset(stall)
			return err
		})
		watchdog.Stop() // nor is waiting for our own disk
		if t.partial.Written+int64(n) > t.file.Size {
			return &Error{Kind: ErrCorrupt, Op: "read", Origin: t.file.Path, Err: fmt.Errorf("the source sends more than the %d bytes that it listed", t.file.Size), Hint: "do not trust this source"}
		}
		if err := t.take(buf[:n]); err != nil {
			return &Error{Kind: errLocal, Op: "write", Origin: t.file.Path, Err: err, Hint: "check the store's disk"}
		}
		watchdog.Reset(stall)
		switch {
		case readErr == nil:
		case !errors.Is(readErr, io.EOF):
			return readErr
		case t.partial.Written < t.file.Size:
			return &Error{Kind: ErrTransient, Op: "read", Origin: t.file.Path, Err: io.ErrUnexpectedEOF}
		default:
			return nil
		}
	}
}

// fill reads until buf is full or the body ends or fails, and tells onRead of
// each piece.
func fill(ctx context.Context, body io.Reader, buf []byte, onRead func(int) error) (int, error) {
	at := 0
	for at < len(buf) {
		if err := ctx.Err(); err != nil {
			return at, err
		}
		n, err := body.Read(buf[at:])
		at += n
		if n > 0 {
			if err := onRead(n); err != nil {
				return at, err
			}
		}
		if err != nil {
			return at, err
		}
	}
	return at, nil
}

// take writes, hashes and counts bytes, and checkpoints when it is time.
func (t *transfer) take(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := t.partial.Write(b); err != nil {
		return err
	}
	t.hash(b)
	t.pull.downloaded.Add(int64(len(b)))
	t.pull.meter.add(int64(len(b)))
	if t.partial.Written < t.file.Size &&
		(time.Since(t.lastCheckpoint) >= checkpointEvery || t.partial.Written-t.partial.Journal.Offset >= checkpointBytes) {
		return t.checkpoint()
	}
	return nil
}

// throttle waits until n more bytes are within MaxRate.
func (f *Fetcher) throttle(ctx context.Context, n int) error {
	if f.limiter == nil {
		return nil
	}
	return f.limiter.WaitN(ctx, n)
}
