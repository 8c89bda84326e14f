package agent

import (
	"context"
	"fmt"
	"sync"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// Admission decides whether a pull may begin: nothing is started that would
// cross the store's quota, or the part of its file system that stays free,
// counting what the pulls under way will still take. One Admission is handed
// both to the fetcher, which asks it, and to the agent, which configures it.
type Admission struct {
	usage func() (store.Usage, error)

	mu     sync.Mutex
	cfg    StoreConfig
	active map[*reservation]struct{}
}

// NewAdmission returns an Admission that measures with usage, as
// (*store.Store).Usage does.
func NewAdmission(usage func() (store.Usage, error), cfg StoreConfig) *Admission {
	return &Admission{usage: usage, cfg: cfg, active: map[*reservation]struct{}{}}
}

// configure takes over new limits; they hold for what is asked from now on.
func (a *Admission) configure(cfg StoreConfig) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cfg = cfg
}

// reservation is what one pull was admitted for and has not transferred yet.
type reservation struct {
	mu         sync.Mutex
	asked      bool  // and admitted
	need       int64 // in bytes
	base, done int64
}

// outstanding is what the pull will still take, in bytes.
func (r *reservation) outstanding() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(0, r.need-max(0, r.done-r.base))
}

// admitted says whether room was reserved, and how much, in bytes.
func (r *reservation) admitted() (ok bool, need int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked, r.need
}

// progress tells how many bytes the pull has in the store.
func (r *reservation) progress(done int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked {
		r.base = done // found in the store before anything was admitted
	}
	r.done = done
}

type reservationKey struct{}

// begin returns a context by which Admit knows for whom it reserves, and what
// ends the reservation.
func (a *Admission) begin(ctx context.Context) (pullCtx context.Context, r *reservation, end func()) {
	r = &reservation{}
	return context.WithValue(ctx, reservationKey{}, r), r, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.active, r)
	}
}

// NoRoom is the reason of a refused admission. It is a fetcher.ErrNoSpace.
type NoRoom struct {
	// Need is what the pull would transfer, in bytes; Room what it may take.
	Need, Room int64
	// Limit is what it would cross, in words.
	Limit string
	// Busy says that there would be room if nothing else were being pulled.
	Busy bool
}

func (e *NoRoom) Error() string {
	s := fmt.Sprintf("%s are needed, %s is left before %s", sizeText(e.Need), sizeText(max(0, e.Room)), e.Limit)
	if e.Busy {
		s += ", other models that are being pulled counted"
	}
	return s
}

// Admit reports whether a pull may transfer need more bytes into the store,
// and reserves them. The error is a [fetcher.Error] of kind
// [fetcher.ErrNoSpace] that holds a [NoRoom].
func (a *Admission) Admit(ctx context.Context, need int64) error {
	usage, err := a.usage() // before the lock: a dead disk must not hold it
	if err != nil {
		return fmt.Errorf("measure the store: %w", err)
	}
	mine, _ := ctx.Value(reservationKey{}).(*reservation)
	a.mu.Lock()
	defer a.mu.Unlock()
	var others int64
	for r := range a.active {
		if r != mine {
			others += r.outstanding()
		}
	}
	if refusal := a.judge(usage, need, others); refusal != nil {
		return &fetcher.Error{
			Kind: fetcher.ErrNoSpace, Op: "reserve room in the store", Err: refusal,
			Hint: "free some space, take a model off the list, or raise store.quota or lower store.reserve",
		}
	}
	if mine != nil {
		mine.mu.Lock()
		mine.asked, mine.need, mine.base = true, need, mine.done
		mine.mu.Unlock()
		a.active[mine] = struct{}{}
	}
	return nil
}

// judge holds a need against the limits; the tighter one is named.
func (a *Admission) judge(u store.Usage, need, others int64) error {
	room, limit := a.cfg.room(u)
	if need <= room-others {
		return nil
	}
	return &NoRoom{Need: need, Room: room - others, Limit: limit, Busy: need <= room}
}
