package fetcher

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"

	"github.com/stoker-project/stoker/fetcher/store"
)

// smallSize is the largest content that is fetched into memory: less than a
// kill costs a connection anyway, so it needs no journal.
const smallSize = 512 << 10

// batchBytes is how much verified content may wait for the disk at once.
const batchBytes = 8 << 20

// fetchSmall brings a content into memory and verifies it.
func (p *pull) fetchSmall(ctx context.Context, f File) (store.Small, error) {
	for try := 1; ; try++ {
		content := p.wasRead(f)
		if content == nil || try > 1 {
			var err error
			if content, err = p.receiveSmall(ctx, f); err != nil {
				return store.Small{}, err
			}
		} else {
			p.downloaded.Add(f.Size)
			p.meter.add(f.Size)
		}
		sum, stated := sha256.Sum256(content), f.Digest.newHash(f.Size)
		if stated != nil {
			stated.Write(content)
		}
		sha256Hex := hex.EncodeToString(sum[:])
		err := f.Digest.verify(sha256Hex, stated)
		if err == nil {
			return store.Small{SHA256: sha256Hex, Key: p.key(f), Content: content}, nil
		}
		p.meter.add(-f.Size)
		if try == verifyTries {
			return store.Small{}, wrongBytes(f, err)
		}
		p.tellFetchingAgain(f, err)
	}
}

// receiveSmall reads the content over as many connections as it takes.
func (p *pull) receiveSmall(ctx context.Context, f File) ([]byte, error) {
	content := make([]byte, f.Size)
	at := int64(0)
	err := p.retry(ctx, f, func(ctx context.Context) (int64, error) {
		before := at
		err := p.flow(ctx, f, store.Span{From: at, To: f.Size}, func(fl *flow) error {
			for at < f.Size {
				n, err := fl.fill(content[at:], all)
				at += int64(n)
				p.downloaded.Add(int64(n))
				p.meter.add(int64(n))
				switch {
				case err == nil:
				case !errors.Is(err, io.EOF):
					return err
				case at < f.Size:
					return &Error{Kind: ErrTransient, Op: "read", Origin: f.Path, Err: io.ErrUnexpectedEOF}
				default:
					return nil
				}
			}
			return fl.end()
		})
		if errors.Is(err, ErrNoRanges) {
			p.meter.add(-at) // all of it comes again
			at = 0
		}
		return at - before, err
	})
	return content, err
}

// smallFiles is the dispatcher's state of the contents that are fetched into
// memory. What is verified goes to the disk together.
type smallFiles struct {
	waiting   []content // not begun
	fetching  int
	verified  []smallContent
	bytes     int64 // verified, or being written
	admitting bool
}

type smallContent struct {
	content content
	small   store.Small
}

// beginSmall gives a connection a small file, if it is their turn: half of the
// connections begin with them, so that their round trips take place beside the
// transfer of the large ones, and not after it.
func (d *dispatcher) beginSmall(ctx context.Context) bool {
	s := &d.small
	if len(s.waiting) == 0 || s.bytes > batchBytes || s.fetching >= (d.pace.target+1)/2 && len(d.large)+len(d.open) > 0 {
		return false
	}
	c := s.waiting[0]
	s.waiting = s.waiting[1:]
	s.fetching++
	d.busy++
	d.group.Go(func() error {
		small, err := d.p.fetchSmall(ctx, c.file)
		if err != nil {
			return err
		}
		return d.tell(ctx, func() {
			s.fetching--
			d.busy--
			s.bytes += c.file.Size
			s.verified = append(s.verified, smallContent{c, small})
			d.admitSmall(ctx)
		})
	})
	return true
}

// admitSmall writes what is verified by now. What is verified meanwhile is
// written next.
func (d *dispatcher) admitSmall(ctx context.Context) {
	s := &d.small
	if s.admitting || len(s.verified) == 0 {
		return
	}
	batch := s.verified
	s.verified, s.admitting = nil, true
	d.group.Go(func() error {
		contents := make([]store.Small, 0, len(batch))
		for _, b := range batch {
			contents = append(contents, b.small)
		}
		if err := d.p.staging.AdmitSmall(ctx, contents); err != nil {
			return err
		}
		return d.tell(ctx, func() {
			s.admitting = false
			for _, b := range batch {
				s.bytes -= b.content.file.Size
				d.done(b.content, b.small.SHA256)
			}
			d.admitSmall(ctx)
		})
	})
}
