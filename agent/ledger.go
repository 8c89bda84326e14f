package agent

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// ledgerVersion is the version of the ledger's JSON. What has another one is begun
// anew: it holds nothing that reading does not bring back.
const ledgerVersion = 1

// maxLedger keeps the ledger well under the 256 KiB that all annotations of an
// object share.
const maxLedger = 128 << 10

// ledgerRounds is after how many rounds' time an account is dropped that no agent
// goes on with: its volume is gone, or was changed.
const ledgerRounds = 4

// ledger is what agents that mount one volume, into which nobody writes, tell each
// other of its content, so that each file is read and hashed once for all of them.
// It is kept in an annotation of a Lease. Clocks are relied upon for the length of
// rounds and claims: where one is wrong by hours, files are read twice; one that is
// years ahead drops accounts, which agents that run add again from what they know.
type ledger struct {
	Version  int        `json:"version"`
	Accounts []*account `json:"accounts"`
}

// sealedKey is what an account is about: one revision of a model, as stat shows it,
// on the disks of one zone. A disk has a copy of its own in each zone, where disks
// are a zone's, and a network volume is read once a zone then.
type sealedKey struct {
	Model    string `json:"model"`
	Revision string `json:"revision"`
	Print    string `json:"print"`
	Zone     string `json:"zone,omitempty"`
}

// account is how far the reading of one revision is.
type account struct {
	sealedKey
	// Whole is since when every file has been read and found right; zero: not yet.
	Whole time.Time `json:"whole,omitzero"`
	// Began is when the round under way began, in which Done are the files, a bit
	// each, that were read and found right.
	Began time.Time `json:"began"`
	Done  bits      `json:"done,omitempty"`
	// Contested are files, by their index, that somebody found wrong: there each
	// node goes by its own reading.
	Contested map[string]map[string]finding `json:"contested,omitempty"`
	// Claims are what is being read.
	Claims []claim `json:"claims,omitempty"`
}

// finding is what one node found when it read a contested file.
type finding struct {
	Right bool      `json:"right"`
	At    time.Time `json:"at"`
}

// claim says that a node reads the files From to To, less one.
type claim struct {
	Node  string    `json:"node"`
	From  int       `json:"from"`
	To    int       `json:"to"`
	Until time.Time `json:"until"`
}

// bits are a set of small numbers.
type bits []byte

func (b bits) has(i int) bool { return i/8 < len(b) && b[i/8]&(1<<(i%8)) != 0 }

func (b bits) with(i int) bits {
	for len(b) <= i/8 {
		b = append(b, 0)
	}
	b[i/8] |= 1 << (i % 8)
	return b
}

func (b bits) without(i int) bits {
	if b.has(i) {
		b[i/8] &^= 1 << (i % 8)
	}
	return b
}

// parseLedger reads the annotation; what cannot be used is an empty ledger, and an
// error to be told.
func parseLedger(text string) (ledger, error) {
	empty := ledger{Version: ledgerVersion}
	if text == "" {
		return empty, nil
	}
	var l ledger
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return empty, fmt.Errorf("the ledger of what was read cannot be used: %w", err)
	}
	if l.Version != ledgerVersion {
		return empty, fmt.Errorf("the ledger of what was read has version %d, and this agent knows %d", l.Version, ledgerVersion)
	}
	l.Accounts = slices.DeleteFunc(l.Accounts, func(p *account) bool { return p == nil })
	return l, nil
}

// encode renders the ledger. What is too large loses the accounts whose rounds are
// the oldest: their files are read again.
func (l *ledger) encode() (string, error) {
	for _, p := range l.Accounts {
		slices.SortStableFunc(p.Claims, func(a, b claim) int { return cmp.Compare(a.Node, b.Node) })
	}
	for step := 0; ; step++ {
		data, err := json.Marshal(l)
		if err != nil || len(data) <= maxLedger {
			return string(data), err
		}
		calm := slices.DeleteFunc(slices.Clone(l.Accounts), func(p *account) bool { return len(p.Contested) > 0 })
		switch {
		case step == 0:
			l.shorten()
		case len(calm) == 0:
			return "", fmt.Errorf("what was found wrong takes %d bytes of a ledger, which is too much", len(data))
		default:
			// The oldest ones. What was found wrong is never forgotten for room.
			slices.SortStableFunc(calm, func(a, b *account) int { return a.Began.Compare(b.Began) })
			drop := map[*account]bool{}
			for _, p := range calm[:(len(calm)+3)/4] {
				drop[p] = true
			}
			l.Accounts = slices.DeleteFunc(l.Accounts, func(p *account) bool { return drop[p] })
		}
	}
}

// mostFindings is of how many nodes a ledger that is too large keeps that they found a
// file wrong.
const mostFindings = 4

// shorten keeps that files are contested, and not by whom: a node that finds itself no
// more reads again.
func (l *ledger) shorten() {
	for _, p := range l.Accounts {
		for _, nodes := range p.Contested {
			kept := 0
			for _, node := range slices.Sorted(maps.Keys(nodes)) {
				if nodes[node].Right || kept == mostFindings {
					delete(nodes, node)
				} else {
					kept++
				}
			}
		}
	}
}

// find returns the account, or nil.
func (l *ledger) find(k sealedKey) *account {
	for _, p := range l.Accounts {
		if p.sealedKey == k {
			return p
		}
	}
	return nil
}

// longestClaim is more than an agent claims for; where a cycle is longer, that is.
const longestClaim = 10 * time.Minute

// tidy drops accounts that nobody goes on with, and claims that have ended, or that go
// on for so long that no agent with a right clock has made them.
func (l *ledger) tidy(now time.Time, cycle time.Duration) {
	l.Accounts = slices.DeleteFunc(l.Accounts, func(p *account) bool {
		after := ledgerRounds * cycle
		if len(p.Contested) > 0 {
			after *= 10 // nobody may have been there to read it again
		}
		return now.Sub(p.Began) > after
	})
	for _, p := range l.Accounts {
		p.Claims = slices.DeleteFunc(p.Claims, func(c claim) bool { return !now.Before(c.Until) || c.Until.Sub(now) > max(cycle, longestClaim) })
	}
}

// open returns the account, which it makes if there is none. A round that has lasted
// for a cycle, with nothing left to read in it, is followed by the next.
func (l *ledger) open(k sealedKey, files int, now time.Time, cycle time.Duration) *account {
	p := l.find(k)
	if p == nil {
		p = &account{sealedKey: k, Began: now}
		l.Accounts = append(l.Accounts, p)
	}
	if p.Began.Sub(now) > cycle {
		// Somebody's clock is ahead, or this node's is behind: then what others have
		// written since is no reason to take it for long ago.
		p.Began = p.latest(now)
	}
	p.settle(files)
	if now.Sub(p.Began) >= cycle && p.over(files) {
		p.Began, p.Done, p.Claims = now, nil, nil
		for file, nodes := range p.Contested {
			all := maps.Clone(nodes)
			maps.DeleteFunc(nodes, func(_ string, f finding) bool {
				// It is gone, or reads no more.
				return now.Sub(f.At) > 2*cycle && (f.Right || rightSince(all, f.At))
			})
			if !contested(nodes) {
				delete(p.Contested, file)
			}
		}
	}
	return p
}

// over says whether the round has nothing left to read.
func (p *account) over(files int) bool {
	for i := range files {
		if !p.Done.has(i) && !p.wrong(i) {
			return false
		}
	}
	return true
}

// settle notes when the round has found every file right.
func (p *account) settle(files int) {
	for i := range files {
		if !p.Done.has(i) {
			return
		}
	}
	if p.Began.After(p.Whole) {
		p.Whole = p.Began
	}
}

// latest is the last time that the account tells of, and no earlier than now.
func (p *account) latest(now time.Time) time.Time {
	at := now
	if p.Whole.After(at) {
		at = p.Whole
	}
	for _, nodes := range p.Contested {
		for _, f := range nodes {
			if f.At.After(at) {
				at = f.At
			}
		}
	}
	return at
}

// rightSince says whether any node has found the file right later than that.
func rightSince(nodes map[string]finding, at time.Time) bool {
	for _, f := range nodes {
		if f.Right && f.At.After(at) {
			return true
		}
	}
	return false
}

func contested(nodes map[string]finding) bool {
	for _, f := range nodes {
		if !f.Right {
			return true
		}
	}
	return false
}

// wrong says that somebody found the file wrong, in this round or before.
func (p *account) wrong(file int) bool { return contested(p.Contested[strconv.Itoa(file)]) }

// found notes what a node has found a file to be.
func (p *account) found(file int, node string, right bool, now time.Time) {
	if right {
		p.Done = p.Done.with(file)
	} else {
		p.Done = p.Done.without(file)
	}
	key := strconv.Itoa(file)
	nodes := p.Contested[key]
	if right && !contested(nodes) {
		return
	}
	if nodes == nil {
		nodes = map[string]finding{}
		if p.Contested == nil {
			p.Contested = map[string]map[string]finding{}
		}
		p.Contested[key] = nodes
	}
	nodes[node] = finding{Right: right, At: now}
	if !contested(nodes) {
		delete(p.Contested, key)
	}
}

// vouched says whether a file was read and found right by anybody, in this round
// or one before.
func (p *account) vouched(file int) bool { return !p.Whole.IsZero() || p.Done.has(file) }

// claimed says whether another node reads the file now.
func (p *account) claimed(file int, node string, now time.Time) bool {
	return slices.ContainsFunc(p.Claims, func(c claim) bool {
		return c.Node != node && c.From <= file && file < c.To && now.Before(c.Until)
	})
}

// readers is how many nodes read now, beside this one.
func (l *ledger) readers(node, zone string, now time.Time) int {
	seen := map[string]bool{}
	for _, p := range l.Accounts {
		for _, c := range p.Claims {
			if p.Zone == zone && c.Node != node && now.Before(c.Until) {
				seen[c.Node] = true
			}
		}
	}
	return len(seen)
}

// release takes a node's claims back.
func (l *ledger) release(node string) {
	for _, p := range l.Accounts {
		p.Claims = slices.DeleteFunc(p.Claims, func(c claim) bool { return c.Node == node })
	}
}
