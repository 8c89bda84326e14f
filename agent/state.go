package agent

import (
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// State is where a model is in its life on this node.
type State string

// The states of a model.
const (
	// StateAbsent: nothing is known of it yet, or nothing is there.
	StateAbsent State = "absent"
	// StateQueued: wanted, waits for its turn.
	StateQueued State = "queued"
	// StatePulling: bytes are coming in.
	StatePulling State = "pulling"
	// StateVerifying: the bytes are there and are being verified or published.
	StateVerifying State = "verifying"
	// StateWarm: every file is there and verified; the label says so.
	StateWarm State = "warm"
	// StateUpdating: warm at one revision while another is pulled beside it.
	StateUpdating State = "updating"
	// StateEvicting: the label is gone or going, the bytes follow.
	StateEvicting State = "evicting"
	// StateFailed: the last attempt failed; there will be another.
	StateFailed State = "failed"
	// StateSkipped: not held here, for the reason given.
	StateSkipped State = "skipped"
)

// storeView is what the store held when it was last looked at.
type storeView struct {
	Models map[string]storedModel
	Usage  store.Usage
	// Taking is what admitted pulls would still take when that was measured, in
	// bytes, by model.
	Taking map[string]int64
	// Memory is what earlier runs of the agent knew.
	Memory *agentMemory
	// Leaving are the models that a shared volume's writer is about to remove.
	Leaving map[string]bool
}

// storedModel is one published model, just checked.
type storedModel struct {
	Manifest store.Manifest
	// Err is nil if every file is as it was when it was verified;
	// store.ErrCorrupt if one is not; else why that could not be told.
	Err error
	// Size is what the model needs on a GPU; nil if that cannot be told, and SizeErr
	// says why.
	Size    *sizing.Model
	SizeErr error
	// Old are published revisions that the current one has superseded.
	Old []store.Manifest
}

// record is what the agent remembers about a model between turns.
type record struct {
	// Transfer identifies the list entry of the last attempt.
	Transfer string
	// Failure is why the last attempt failed; nil after a success.
	Failure  *failure
	Failures int
	// Next is when the next attempt may start.
	Next time.Time
	// LookedUp is when the revision was last looked up.
	LookedUp time.Time
	// Early is how much before the end of the interval it is looked up again, once
	// Spread says that this was decided.
	Early  time.Duration
	Spread bool
	// NotBefore is when a first attempt at an entry that is new in the list may start.
	NotBefore time.Time
	// PulledRevision is what the last attempt with Transfer published.
	PulledRevision string
	// Unwanted is since when the model is no longer wanted here; zero if it is.
	Unwanted time.Time
	// Fresh is the first number of a look at the store that has seen the
	// agent's own last change to the model.
	Fresh int
	// Removed is what that change took out, or tried to; nil if it was a pull.
	Removed *superseded
	// PruneNext is when a superseded revision may be tried again that could not
	// be removed PruneFailures times in a row.
	PruneNext     time.Time
	PruneFailures int
	// Managed says that the agent holds the model because of the list, so that
	// it may remove it. What somebody else put into the store stays.
	Managed bool
	// Corrupt remembers what was told about changed files, to tell it once.
	Corrupt bool
	// LastUsed is when a pod on this node last named the model; zero: never.
	LastUsed time.Time
}

// failure is why an attempt failed.
type failure struct {
	State  State
	Reason string
	Hint   string
	Code   string
	// NoRoom is set when there was no room: how much was needed, and what there
	// was.
	NoRoom *NoRoom
	// Until is how long the source asked to be left alone; zero if it did not.
	Until time.Time
}

// pulling is how far a running pull is.
type pulling struct {
	Transfer string
	Lookup   bool // only the revision is being looked up
	Phase    string
	Done     int64
	Total    int64
	Rate     int64 // bytes per second
	// Failing is why a request of it is tried again, and Hint what to do; empty: all
	// goes well.
	Failing, Hint string
	// Admitted says that room was reserved for it, Reserved how much, in bytes.
	Admitted bool
	Reserved int64
}

// facts is everything that a plan depends on.
type facts struct {
	Now          time.Time
	Intervals    Intervals
	Concurrent   int
	Limits       StoreConfig
	List         []Model
	ListKnown    bool
	NodeLabels   map[string]string
	NodeKnown    bool
	Store        answer[storeView]
	Pods         []pod
	PodsKnown    bool
	Running      map[string]pulling
	Removing     map[string]bool
	Memory       map[string]record
	Promised     map[string]bool   // models that a label on the Node promises
	Revisions    map[string]string // the rev labels on the Node, by model
	PromiseKnown bool              // false until a write was confirmed
	RAM          ramFacts
	Shared       sharedFacts
}

// modelState is one line of what the node says.
type modelState struct {
	Name  string
	Model Model
	State State
	// Warm says that the label may be written, with Tier as its value.
	Warm     bool
	Tier     string
	Revision string // published, full
	Bytes    int64  // of the published revision
	Size     *sizing.Model
	SizeErr  error
	Progress *pulling
	Reason   string
	Hint     string
	Code     string
	Next     time.Time
	// Resident is how many of its bytes are in memory, where that is measured.
	// RAMState is what becomes of a model that is to be there; empty: it is not to.
	// NotInRAM says why it is not there.
	Resident int64
	RAMState string
	NotInRAM string
	// Pods is how many pods here name the model.
	Pods   int
	Wanted bool
	Listed bool
	// Held says that the store should hold it: for this node, or, on a shared
	// volume, for any. Used: a pod here, or there on any node, names it.
	Held, Used bool
}

// reset makes it a model that waits for its turn; one that is warm stays so.
func (s *modelState) reset() {
	if !s.Warm {
		s.State = StateQueued
	}
	s.Reason, s.Hint, s.Code, s.Next = "", "", "", time.Time{}
}

// order is a pull to start.
type order struct {
	Model  Model
	Lookup bool // pull only if the revision has moved
	// Cache is how many bytes of it may stay in the page cache; see
	// [fetcher.Request].
	Cache int64
}

// superseded is a revision that the current one has replaced.
type superseded struct{ Name, Revision string }

// decision is what a plan says is to be done now.
type decision struct {
	Models []modelState // by name
	Start  []order
	Cancel []string
	Remove []string
	Prune  []superseded
	// Leave is what no other Node may say, see [sharedFacts].
	Leave  map[departure]bool
	Memory ramDecision
	// Wake is when time alone changes the plan; zero if it does not.
	Wake time.Time
}

// ramDecision is what is to be held in memory.
type ramDecision struct {
	Budget ramBudget
	// Taken is how much of it is used, in bytes, by the models that are Held.
	Taken int64
	Held  map[string]bool
	// Targets are the models that want to be in memory, the most urgent one first.
	Targets []ramTarget
}

// reason is what the decision says of a model.
func (d decision) reason(name string) string {
	for _, m := range d.Models {
		if m.Name == name {
			return m.Reason
		}
	}
	return ""
}

// sameSource says whether a manifest is of the entry's source, whatever the
// revision.
func sameSource(m Model, have store.Manifest) bool {
	src, err := fetcher.ParseSource(have.Source)
	return err == nil && src.WithoutRevision() == m.Source.WithoutRevision()
}

// upToDate says whether what is published is what the entry asks for, as far
// as that can be told without looking the revision up.
func upToDate(m Model, have store.Manifest, r record) bool {
	if r.Transfer == m.transfer() && r.Failure == nil && r.PulledRevision != "" {
		return r.PulledRevision == have.Revision
	}
	// What older rules chose is listed again: some of its files may be missing.
	if have.Selection < fetcher.SelectionVersion || !fetcher.ChoiceOf(have).Equal(m.choice()) {
		return false
	}
	if m.Source.Pinned() {
		return have.Revision == m.Source.Revision
	}
	src, err := fetcher.ParseSource(have.Source)
	return err == nil && ref(src) == ref(m.Source)
}

// ref is the revision that a source means when it names none.
func ref(s fetcher.Source) string {
	if s.Revision == "" && s.Scheme == fetcher.SchemeHub {
		return "main"
	}
	return s.Revision
}
