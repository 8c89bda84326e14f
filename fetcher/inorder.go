package fetcher

import (
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"sync"

	"github.com/stoker-project/stoker/fetcher/store"
)

// dropBytes is how much leaves the page cache at a time.
const dropBytes = 32 << 20

// inOrder hashes a file from its front while its parts are written in any
// order: from the writer's own buffer where that is the next part, else by
// reading back what was written ahead, as soon as the gap before it is filled.
type inOrder struct {
	partial *store.Partial
	file    File
	moved   func() // the front has moved by a buffer

	// hashing is held while the hashes change, which is for one buffer at most.
	// Only who set busy changes them.
	hashing sync.Mutex
	sum     hash.Hash // sha256
	stated  hash.Hash // the algorithm that the source vouches with, if another
	drop    bool      // what is hashed leaves the page cache
	dropped int64     // how much of it has

	mu      sync.Mutex
	idle    *sync.Cond // busy has become false
	busy    bool
	at      int64 // how many bytes are hashed; changed under both locks
	stopped bool
	err     error // of reading back
}

// newInOrder continues where the partial's last checkpoint was. States of hashes
// that cannot be used cost what was transferred: nothing else is known of it. With
// drop, what is hashed leaves the page cache.
func newInOrder(file File, partial *store.Partial, drop bool, moved func()) (*inOrder, error) {
	o := &inOrder{partial: partial, file: file, moved: moved, drop: drop}
	o.idle = sync.NewCond(&o.mu)
	o.newHashes()
	if partial.Hashed > 0 {
		if err := o.restore(partial.Hashes); err == nil {
			o.at = partial.Hashed
		} else if err := partial.Reset(); err != nil {
			return nil, err
		} else {
			o.newHashes()
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.follow()
	return o, nil
}

func (o *inOrder) newHashes() {
	o.at, o.dropped = 0, 0
	o.sum, o.stated = sha256.New(), o.file.Digest.newHash(o.file.Size)
}

func (o *inOrder) hashes() []hash.Hash {
	if o.stated == nil {
		return []hash.Hash{o.sum}
	}
	return []hash.Hash{o.sum, o.stated}
}

// restore takes the states of the hashes as states returned them.
func (o *inOrder) restore(states [][]byte) error {
	if len(states) != len(o.hashes()) {
		return errors.New("the journal has the states of other hashes")
	}
	for i, h := range o.hashes() {
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

// states returns how many bytes are hashed, and the states of the hashes then.
func (o *inOrder) states() (int64, [][]byte, error) {
	o.hashing.Lock()
	defer o.hashing.Unlock()
	var states [][]byte
	for _, h := range o.hashes() {
		m, ok := h.(encoding.BinaryMarshaler)
		if !ok {
			return 0, nil, fmt.Errorf("hash %T cannot be saved", h)
		}
		state, err := m.MarshalBinary()
		if err != nil {
			return 0, nil, err
		}
		states = append(states, state)
	}
	return o.at, states, nil
}

// wrote hears that b is in the partial from off on.
func (o *inOrder) wrote(b []byte, off int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	// Who is busy looks again for what was written before it ends.
	if o.busy || o.stopped {
		return
	}
	if off == o.at {
		o.busy = true
		o.mu.Unlock()
		o.hash(b)
		o.mu.Lock()
		o.busy = false
		o.idle.Broadcast()
	}
	o.follow()
}

// hash is called by who is busy.
func (o *inOrder) hash(b []byte) {
	o.hashing.Lock()
	defer o.hashing.Unlock()
	o.sum.Write(b)
	if o.stated != nil {
		o.stated.Write(b)
	}
	o.mu.Lock()
	o.at += int64(len(b))
	o.mu.Unlock()
	o.moved()
	if o.drop && o.at-o.dropped >= 2*dropBytes {
		// Not the last ones, which the disk may still be writing.
		if err := o.partial.DropCache(store.Span{From: o.dropped, To: o.dropped + dropBytes}); err != nil {
			o.mu.Lock()
			o.err = err // the disk tells an error once: later syncs could succeed
			o.mu.Unlock()
		}
		o.dropped += dropBytes
	}
}

// follow begins to read back if there is something. o.mu is held.
func (o *inOrder) follow() {
	if !o.busy && !o.stopped && o.err == nil && o.partial.Front() > o.at {
		o.busy = true
		go o.catchUp()
	}
}

// catchUp hashes what is written without a gap and ends when that is done. It
// comes from the page cache, and is compared with what was written: else a file
// whose source states no digest would be right whatever became of it there.
func (o *inOrder) catchUp() {
	buf := make([]byte, store.PieceSize)
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.stopped && o.err == nil && o.partial.Front() > o.at {
		at := o.at
		o.mu.Unlock()
		n, err := o.partial.ReadBack(buf, at)
		if err == nil {
			o.hash(buf[:n])
		}
		o.mu.Lock()
		if o.err == nil {
			o.err = err
		}
	}
	o.busy = false
	o.idle.Broadcast()
}

// front is how many bytes are hashed.
func (o *inOrder) front() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.at
}

// wait returns the sha256 and the other hash, if there is one, of a file that
// is written whole.
func (o *inOrder) wait(ctx context.Context) ([]byte, hash.Hash, error) {
	defer context.AfterFunc(ctx, o.stop)()
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.busy {
		o.idle.Wait()
	}
	switch {
	case o.err != nil:
		return nil, nil, o.err
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case o.at != o.file.Size:
		return nil, nil, fmt.Errorf("only %d of %d bytes are written", o.at, o.file.Size)
	}
	return o.sum.Sum(nil), o.stated, nil
}

// reset forgets everything: the file begins anew. Nothing is written meanwhile,
// and the hashing has ended.
func (o *inOrder) reset() {
	o.hashing.Lock()
	defer o.hashing.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.newHashes()
	o.err = nil
}

// stop ends the hashing and returns when nobody reads the partial any more.
func (o *inOrder) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = true
	for o.busy {
		o.idle.Wait()
	}
}
