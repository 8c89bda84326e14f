//go:build linux

package link

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxFrame is an Ethernet frame of the usual MTU, with room to spare.
const maxFrame = 2048

// waiting is how many frames may be under way one way: more than queue and
// delay of any sensible link hold.
const waiting = 1 << 16

// frame is a frame under way.
type frame struct {
	body *[maxFrame]byte
	size int
	due  time.Time
}

// pipe is one direction of a link.
type pipe struct {
	from, to *os.File
	shape    Shape
	under    chan frame

	mu     sync.Mutex
	random *rand.Rand
	stats  Stats
	pool   sync.Pool
}

func newPipe(from, to *os.File, s Shape) *pipe {
	p := &pipe{from: from, to: to, shape: s, under: make(chan frame, waiting)}
	p.pool.New = func() any { return new([maxFrame]byte) }
	p.reset(0, 0)
	return p
}

func (p *pipe) reset(seed, direction uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.random = rand.New(rand.NewPCG(seed, direction))
}

// read takes frames in, as fast as they come, until the socket is closed.
func (p *pipe) read() {
	defer close(p.under)
	var free time.Time // when the line has sent all that waits for it
	for {
		body, ok := p.pool.Get().(*[maxFrame]byte)
		if !ok {
			return
		}
		n, err := p.from.Read(body[:])
		if err != nil {
			return
		}
		now := time.Now()
		if free.Before(now) {
			free = now
		}
		if !p.pass(body[:n], free.Sub(now)) {
			p.pool.Put(body)
			continue
		}
		free = free.Add(time.Duration(int64(n) * 8 * int64(time.Second) / p.shape.Rate))
		p.under <- frame{body, n, free.Add(p.shape.RTT / 2)}
	}
}

// pass decides about a frame that would have to wait for so long.
func (p *pipe) pass(b []byte, wait time.Duration) bool {
	const typeAt, headerSize = 12, 14
	p.mu.Lock()
	defer p.mu.Unlock()
	ip := len(b) >= headerSize && binary.BigEndian.Uint16(b[typeAt:]) == unix.ETH_P_IP
	switch {
	case ip && p.shape.Loss > 0 && p.random.Float64() < p.shape.Loss:
		p.stats.Lost++
		return false
	case wait.Seconds()*float64(p.shape.Rate)/8 > float64(p.shape.queue()):
		p.stats.Dropped++
		return false
	}
	p.stats.Delivered++
	return true
}

// write gives frames out when they are due.
func (p *pipe) write() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for f := range p.under {
		if wait := time.Until(f.due); wait > 0 {
			timer.Reset(wait)
			<-timer.C
		}
		// A device that is gone loses frames, as it should.
		_, _ = p.to.Write(f.body[:f.size])
		p.pool.Put(f.body)
	}
}

// count adds this direction's counts to s.
func (p *pipe) count(s *Stats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Reading the kernel's count clears it.
	if raw, err := p.from.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if k, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
				p.stats.Overrun += int64(k.Drops)
			}
		})
	}
	s.Delivered += p.stats.Delivered
	s.Lost += p.stats.Lost
	s.Dropped += p.stats.Dropped
	s.Overrun += p.stats.Overrun
}
