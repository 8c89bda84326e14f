package agent

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/stoker-project/stoker/gpu/sizing"
)

// StatusVersion is the version of [NodeStatus] that this package writes. A
// reader takes any version up to its own and ignores fields it does not know;
// the version rises when a field changes its meaning.
const StatusVersion = 1

// maxStatus is the most that the annotation takes, in bytes: every watcher of Nodes
// receives it with each write.
const maxStatus = 16_000

// Lengths of texts in the annotation, in characters.
const (
	maxReason = 320
	maxHint   = 200
	maxBrief  = 80
)

// residentSteps is in how many steps the annotation tells what is in memory.
const residentSteps = 20

// NodeStatus is what the annotation [StatusAnnotation] holds, as compact JSON:
// what the labels are too short for.
type NodeStatus struct {
	Version int `json:"version"`
	// Agent is the version of the binary.
	Agent string `json:"agent,omitempty"`
	// Release is the Helm release of the agent, as NAMESPACE/NAME; empty: none, or
	// that of an older agent. Uninstalling a release removes what names it.
	Release string `json:"release,omitempty"`
	// Time is when it was written. It is no heartbeat: nothing is written while
	// nothing changes.
	Time   time.Time     `json:"time"`
	Models []ModelStatus `json:"models"`
	// Omitted is how many models were left out because the annotation would
	// have become too large: cold and unimportant ones first. What a label calls
	// warm is warm, whether it is here or not.
	Omitted int `json:"omitted,omitempty"`
	// More names the object that has every model and every text, as
	// leases/NAMESPACE/NAME; see [UnpackStatus]. Empty: all are here, or the agent
	// has no such object to write.
	More string `json:"more,omitempty"`
	// ProgressSeconds is how often progress is written while something is pulled; 0:
	// as often as the agent's settings say.
	ProgressSeconds int         `json:"progressSeconds,omitempty"`
	GPUs            GPUStatus   `json:"gpus"`
	Store           StoreStatus `json:"store"`
	List            ListStatus  `json:"list"`
	// Throttled are the sources' quotas that are used up.
	Throttled []ThrottledStatus `json:"throttled,omitempty"`

	priorities map[string]int // of the list's entries
}

// ThrottledStatus is a source's quota that is used up.
type ThrottledStatus struct {
	// Host is whose it is, Requests of which requests: "API calls".
	Host     string `json:"host"`
	Requests string `json:"requests"`
	// Until is when it is renewed, rounded up to a minute. The node itself may return
	// later, see [ModelStatus.Next].
	Until time.Time `json:"until"`
}

// ModelStatus is one model on this node.
type ModelStatus struct {
	Name   string `json:"name"`
	Source string `json:"source,omitempty"`
	State  State  `json:"state"`
	// Tier is the value of the warm label; empty: no label.
	Tier string `json:"tier,omitempty"`
	// RAM is what becomes of a model that is to be in memory; empty: it is not to be.
	// ResidentBytes of Bytes are there, in steps of a twentieth. NotInRAM says why
	// not all of it is.
	RAM           string `json:"ram,omitempty"`
	ResidentBytes int64  `json:"residentBytes,omitempty"`
	NotInRAM      string `json:"notInRam,omitempty"`
	// LoadSeconds is about how long it takes to read what is not in memory; nil: not
	// known, or Tier says that it is there.
	LoadSeconds *int64 `json:"loadSeconds,omitempty"`
	// Revision is the published one, in full.
	Revision string `json:"revision,omitempty"`
	// Bytes is the size of the published revision.
	Bytes int64 `json:"bytes,omitempty"`
	// DoneBytes of TotalBytes are there of what is being pulled; Rate is in
	// bytes per second, SecondsLeft an estimate.
	DoneBytes   int64 `json:"doneBytes,omitempty"`
	TotalBytes  int64 `json:"totalBytes,omitempty"`
	Rate        int64 `json:"rate,omitempty"`
	SecondsLeft int64 `json:"secondsLeft,omitempty"`
	// Fits is the value of the fits label; nil: not known.
	Fits *int `json:"fits,omitempty"`
	// Tight is how many replicas more may start, or not: vLLM's own memory at the
	// least leaves room, and at the most does not.
	Tight int `json:"tight,omitempty"`
	// Need is what Fits was held against; nil: it cannot be told, and NeedUnknown may
	// say why.
	Need        *ReplicaNeed `json:"need,omitempty"`
	NeedUnknown string       `json:"needUnknown,omitempty"`
	// Measured is what replicas that run here took; nil: none was measured.
	Measured *MeasuredStatus `json:"measured,omitempty"`
	// Reason says why it is not warm, Hint what to do.
	Reason string `json:"reason,omitempty"`
	Hint   string `json:"hint,omitempty"`
	// Code is refused or noRoom, where waiting is in vain.
	Code string `json:"code,omitempty"`
	// Next is when the next attempt starts.
	Next *time.Time `json:"next,omitempty"`
	// Pods is how many pods on this node name the model.
	Pods int `json:"pods,omitempty"`
	// Wanted says that this node should hold it: by the list, or for a pod here.
	Wanted bool `json:"wanted,omitempty"`
}

// ReplicaNeed is what one replica of a model takes.
type ReplicaNeed struct {
	GPUs int `json:"gpus"`
	// BytesPerGPU is weights, the cache of one full-length request, and the least that
	// vLLM takes beside them; MostBytesPerGPU the same with the most that it takes, 0
	// where an older agent says nothing of it.
	BytesPerGPU     uint64 `json:"bytesPerGpu"`
	MostBytesPerGPU uint64 `json:"mostBytesPerGpu,omitempty"`
	// Share of a GPU's memory that vLLM claims at the start.
	Share float64 `json:"share"`
}

// MeasuredStatus is what replicas of a model that run on this node took.
type MeasuredStatus struct {
	// BesideBytes is the most that one took on a GPU beside weights and cache.
	BesideBytes uint64 `json:"besideBytes"`
	// Trusted says that its namespace is, and that its release of vLLM is the one whose rules the sum follows; else this can
	// make a fit tight, and no more.
	Trusted bool `json:"trusted,omitempty"`
}

// GPUStatus is what is known of the node's GPUs, in the labels' steps.
type GPUStatus struct {
	Known  bool   `json:"known"`
	Reason string `json:"reason,omitempty"`
	Name   string `json:"name,omitempty"`
	Count  int    `json:"count,omitempty"`
	Idle   int    `json:"idle,omitempty"`
	// TotalBytes is the memory of the largest GPU as nvidia-smi reports it,
	// UsableBytes as CUDA does, of which vLLM takes its share.
	TotalBytes  uint64 `json:"totalBytes,omitempty"`
	UsableBytes uint64 `json:"usableBytes,omitempty"`
	// FreeGiB is the largest free memory on one GPU.
	FreeGiB int `json:"freeGib,omitempty"`
	// Unallocated is how many GPUs are given to no pod; nil: not known.
	Unallocated *int `json:"unallocated,omitempty"`
	// Leaks is memory in use though no pod here has a GPU.
	Leaks []LeakStatus `json:"leaks,omitempty"`
}

// StoreStatus is what is known of the store, as of NodeStatus.Time.
type StoreStatus struct {
	Known      bool   `json:"known"`
	Reason     string `json:"reason,omitempty"`
	Bytes      int64  `json:"bytes,omitempty"`
	FreeBytes  int64  `json:"freeBytes,omitempty"`
	TotalBytes int64  `json:"totalBytes,omitempty"`
	// ReadOnly says that nothing can be pulled; what is there can be read.
	ReadOnly bool `json:"readOnly,omitempty"`
	// ReadRate is how fast the volume reads what is not in memory, in bytes per
	// second, as it was last measured at ReadAt; 0: not known. Both are said anew
	// when the rate has changed by a fifth, or after an hour.
	ReadRate int64      `json:"readRate,omitempty"`
	ReadAt   *time.Time `json:"readAt,omitempty"`
}

// ListStatus is whether the model list is in force as it stands.
type ListStatus struct {
	Models int `json:"models"`
	// Rejected says why the list on file is not in force.
	Rejected string `json:"rejected,omitempty"`
}

// Lengths that a status is cut to before it leaves models out.
const (
	maxListBrief = 320 // characters of a rejected list's mistakes
	maxLeaks     = 8
)

// encode renders the status as compact JSON of at most limit bytes, and reports
// whether all of it is there. Texts are shortened first, then dropped, then as few
// models as can be: cold and unimportant ones first.
func (s NodeStatus) encode(limit int) (text string, whole bool, err error) {
	steps := []func(*NodeStatus){
		func(*NodeStatus) {},
		func(s *NodeStatus) {
			for i := range s.Models {
				m := &s.Models[i]
				m.Reason, m.Hint = truncate(m.Reason, maxBrief), ""
				m.NotInRAM, m.NeedUnknown = truncate(m.NotInRAM, maxBrief), truncate(m.NeedUnknown, maxBrief)
			}
			s.List.Rejected = truncate(s.List.Rejected, maxListBrief)
			s.GPUs.Leaks = s.GPUs.Leaks[:min(len(s.GPUs.Leaks), maxLeaks)]
		},
		func(s *NodeStatus) {
			for i := range s.Models {
				m := &s.Models[i]
				m.Reason, m.NotInRAM, m.NeedUnknown, m.Source = "", "", "", ""
			}
		},
	}
	s.Models = append([]ModelStatus{}, s.Models...)
	for i, step := range steps {
		step(&s)
		b, err := json.Marshal(s)
		if err != nil || len(b) <= limit {
			return string(b), i == 0, err
		}
	}
	return s.keepMost(limit)
}

// keepMost renders as many models as limit bytes hold, the most important ones.
func (s NodeStatus) keepMost(limit int) (text string, whole bool, err error) {
	ranked := slices.Clone(s.Models)
	slices.SortStableFunc(ranked, s.compareImportance)
	rest := s
	rest.Models, rest.Omitted = []ModelStatus{}, s.Omitted+len(s.Models)
	b, err := json.Marshal(rest)
	if err != nil {
		return "", false, err
	}
	size, keep := len(b), make(map[string]bool, len(ranked))
	for _, m := range ranked {
		b, err := json.Marshal(m)
		if err != nil {
			return "", false, err
		}
		if size += len(b) + len(","); size > limit {
			break
		}
		keep[m.Name] = true
	}
	s.Omitted += len(s.Models) - len(keep)
	s.Models = slices.DeleteFunc(slices.Clone(s.Models), func(m ModelStatus) bool { return !keep[m.Name] })
	b, err = json.Marshal(s)
	return string(b), false, err
}

// compareImportance orders the models that people and the scheduler miss most
// first: what pods here name and is warm, what is warm, what pods name, what is wanted.
func (s NodeStatus) compareImportance(a, b ModelStatus) int {
	weight := func(m ModelStatus) int {
		n := 0
		for _, is := range []bool{m.Tier != "", m.Pods > 0, m.Wanted, m.State != StateQueued && m.State != StateSkipped} {
			n *= 2
			if is {
				n++
			}
		}
		return n
	}
	return cmp.Or(cmp.Compare(weight(b), weight(a)), cmp.Compare(s.priorities[b.Name], s.priorities[a.Name]), cmp.Compare(a.Name, b.Name))
}

// signature is the status for comparing: without what changes all the
// time, and without progress unless asked.
func (s NodeStatus) signature(withProgress bool) NodeStatus {
	s.Time, s.ProgressSeconds = time.Time{}, 0
	s.Store.Bytes, s.Store.FreeBytes = 0, 0
	s.Models = append([]ModelStatus{}, s.Models...)
	if !withProgress {
		for i := range s.Models {
			m := &s.Models[i]
			m.DoneBytes, m.TotalBytes, m.Rate, m.SecondsLeft = 0, 0, 0, 0
			m.ResidentBytes, m.LoadSeconds = 0, nil
		}
		s.Store.ReadRate, s.Store.ReadAt = 0, nil
	}
	return s
}

// describe makes the status of what a plan found. It is a pure function.
func describe(models []modelState, w gpuWord, st answer[storeView], speed measuredSpeed) NodeStatus {
	out := NodeStatus{Version: StatusVersion, Models: make([]ModelStatus, 0, len(models)), priorities: make(map[string]int, len(models))}
	for _, m := range models {
		out.priorities[m.Name] = m.Model.Priority
		s := ModelStatus{
			Name: m.Name, State: m.State, Revision: m.Revision, Bytes: m.Bytes, Code: m.Code, Pods: m.Pods,
			Wanted: m.Wanted || m.Pods > 0, Reason: oneLine(m.Reason, maxReason), Hint: oneLine(m.Hint, maxHint),
		}
		if m.Listed {
			s.Source = redact(m.Model.Source.String())
		}
		if m.Warm {
			s.Tier, s.RAM, s.NotInRAM = m.Tier, m.RAMState, oneLine(m.NotInRAM, maxReason)
			s.ResidentBytes = steps(m.Resident, m.Bytes)
			if seconds, ok := speed.loadSeconds(m.Bytes, s.ResidentBytes); ok && m.Tier != TierRAM {
				s.LoadSeconds = &seconds
			}
			if n, ok := w.fits(m.Name); ok {
				s.Fits = &n
				s.Tight = w.Tight[m.Name]
			}
			s.Need, s.NeedUnknown = needOf(m, w)
			if took, ok := w.Measured[m.Name]; ok {
				s.Measured = &MeasuredStatus{BesideBytes: took.BesideBytes, Trusted: took.Trusted}
			}
		}
		if p := m.Progress; p != nil {
			s.DoneBytes, s.TotalBytes, s.Rate = p.Done, p.Total, p.Rate
			if p.Rate > 0 && p.Total > p.Done {
				s.SecondsLeft = (p.Total - p.Done) / p.Rate
			}
		}
		if !m.Next.IsZero() {
			next := m.Next.UTC().Truncate(time.Second)
			s.Next = &next
		}
		out.Models = append(out.Models, s)
	}
	out.GPUs = GPUStatus{Known: w.known(), Reason: oneLine(w.Reason, maxReason)}
	if w.known() {
		out.GPUs = GPUStatus{Known: true, Name: w.Name, Count: w.Count, Idle: w.Idle, TotalBytes: w.TotalBytes, UsableBytes: w.UsableBytes, FreeGiB: w.FreeGiB, Leaks: w.Leaks}
		if w.Unallocated != unknown {
			out.GPUs.Unallocated = &w.Unallocated
		}
	}
	out.Store = StoreStatus{Known: st.Known, Reason: oneLine(errText(st.Err), maxReason)}
	if st.Known {
		u := st.Value.Usage
		out.Store.Bytes, out.Store.FreeBytes, out.Store.TotalBytes = u.StoreBytes, u.FreeBytes, u.TotalBytes
		if out.Store.ReadRate = speed.Rate; speed.Rate > 0 {
			at := speed.At.UTC().Truncate(time.Second)
			out.Store.ReadAt = &at
		}
		if u.ReadOnly {
			out.Store.ReadOnly, out.Store.Reason = true, storeReadOnly
		}
	}
	return out
}

// steps rounds what is there of a whole down to residentSteps.
func steps(there, whole int64) int64 {
	if there >= whole {
		return whole
	}
	step := max(1, whole/residentSteps)
	return there / step * step
}

// needOf is what one replica of the model takes; nil if that cannot be told, with
// the reason where there is one.
func needOf(m modelState, w gpuWord) (*ReplicaNeed, string) {
	if m.Size == nil {
		return nil, oneLine(errText(m.SizeErr), maxReason)
	}
	n, err := m.need()
	if err != nil {
		return nil, oneLine(errText(err), maxReason)
	}
	n = n.On(sizing.DeviceMemory{Name: w.Name, TotalBytes: w.TotalBytes})
	return &ReplicaNeed{
		GPUs: n.GPUsPerReplica(), Share: n.GPUMemoryUtilization,
		BytesPerGPU: n.LeastBytes(), MostBytesPerGPU: n.MostBytes(),
	}, ""
}
