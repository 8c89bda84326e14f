package fetcher

import (
	"context"
	"math"
	"net"
	"net/http/httptrace"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// way is how far the source is, learnt from answers as they come.
type way struct {
	// answer is how long answers take, on average; 0 until the first one.
	answer time.Duration
	// roundTrip is the kernel's of the last connection to the source, 0 if it is not
	// known: on a busy machine answers come late however near their source is.
	roundTrip time.Duration
}

// answersOf is how many answers the average of their times is of, as TCP takes it of
// round trips (RFC 6298).
const answersOf = 8

// measured is ctx for a request, the round trips of whose last connection are to be
// known: the Hub may be far, and where it sends readers near.
func measured(ctx context.Context, roundTrip *atomic.Int64) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		roundTrip.Store(int64(roundTripOf(info.Conn)))
	}})
}

// answered notes how long the source took to answer a request, and its connection's
// round trips. Small files are answered elsewhere, and otherwise.
func (p *pull) answered(f File, after, roundTrip time.Duration) {
	if f.Size <= smallSize {
		return
	}
	after = max(after, 1)
	p.mu.Lock()
	before := p.way
	if p.way.answer == 0 {
		p.way.answer = after
	}
	p.way.answer += (after - p.way.answer) / answersOf
	if roundTrip > 0 {
		p.way.roundTrip = roundTrip
	}
	now := p.way
	p.mu.Unlock()
	if now.far() != before.far() {
		p.look()
	}
}

// known is what is known of the way.
func (p *pull) known() way {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.way
}

// far says that a connection is bound by round trips and losses.
func (w way) far() bool {
	if w.roundTrip > 0 {
		return w.roundTrip >= farRoundTrip
	}
	return w.answer >= farAnswer && w.answer <= busyAnswer
}

// roundTripOf is the least time that the kernel saw a round trip take (TCP_INFO,
// tcp(7)), 0 if it does not know.
func roundTripOf(conn net.Conn) time.Duration {
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secure.NetConn()
	}
	tcp, ok := conn.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	var roundTrip time.Duration
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.Min_rtt != math.MaxUint32 { // which is none yet
			roundTrip = time.Duration(info.Min_rtt) * time.Microsecond
		}
	})
	if err != nil {
		return 0
	}
	return roundTrip
}
