package fleet

import (
	"time"

	"github.com/stoker-project/stoker/agent"
)

// Fleet is what the Nodes of a cluster say. As JSON it is the output of
// `stoker status -o json`: sizes in bytes, lists sorted by name.
type Fleet struct {
	// Time is when the Nodes were read.
	Time  time.Time `json:"time"`
	Nodes []Node    `json:"nodes"`
	// Models are summed up over Nodes.
	Models []Model `json:"models"`
	// OtherNodes is how many nodes are left out because they have neither a GPU
	// nor anything of Stoker's.
	OtherNodes int `json:"otherNodes"`
	// Volumes are those of the chart that pods cannot use.
	Volumes []Volume `json:"volumes,omitempty"`
	// Incomplete is why what had no room on Nodes could not be read elsewhere; nil: it was,
	// or there was nothing.
	Incomplete error `json:"-"`

	others []Node
	// groups are what is not as it should be, where that was not kept of each node; nil: it
	// was. See Want.
	groups groups
	// nodeNames and modelNames are names that the cluster has beside those of Nodes.
	nodeNames, modelNames []string
}

// Word is what kind of word a Node carries.
type Word string

// The kinds of words.
const (
	// WordSaid is an annotation that could be read.
	WordSaid Word = "said"
	// WordNewer is the annotation of a newer agent, read as far as possible.
	WordNewer Word = "newer"
	// WordNone: neither labels nor annotation.
	WordNone Word = "none"
	// WordLabelsOnly: labels that no annotation stands behind.
	WordLabelsOnly Word = "labelsOnly"
	// WordWithdrawn: an annotation whose labels are all gone.
	WordWithdrawn Word = "withdrawn"
	// WordUnreadable: an annotation that cannot be read.
	WordUnreadable Word = "unreadable"
)

// Node is one node and what it says.
type Node struct {
	Name string `json:"name"`
	Word Word   `json:"word"`
	// WordError says why the annotation cannot be read.
	WordError string `json:"wordError,omitempty"`
	// WordVersion is the version of the annotation.
	WordVersion  int    `json:"wordVersion,omitempty"`
	AgentVersion string `json:"agentVersion,omitempty"`
	// Release is the agent's Helm release as NAMESPACE/NAME; empty: not known.
	Release string `json:"release,omitempty"`
	// SaidAt is when the annotation was written. It is no heartbeat: an agent
	// writes nothing while nothing changes.
	SaidAt *time.Time `json:"saidAt,omitempty"`
	// Ready is the status of the Node's Ready condition; empty: it has none.
	Ready       string    `json:"ready"`
	ReadyReason string    `json:"readyReason,omitempty"`
	Cordoned    bool      `json:"cordoned"`
	Taints      []string  `json:"taints,omitempty"`
	GPUs        GPUs      `json:"gpus"`
	Store       Store     `json:"store"`
	List        ModelList `json:"list"`
	// Models are those that the annotation or a label names.
	Models []ModelOnNode `json:"models"`
	// OmittedModels is how many did not go into the annotation, and could not be read
	// elsewhere; More names the object that has them, empty: none.
	OmittedModels int    `json:"omittedModels,omitempty"`
	More          string `json:"more,omitempty"`
	// ProgressSeconds is how often progress is written; 0: as often as the agent's
	// settings say.
	ProgressSeconds int `json:"progressSeconds,omitempty"`
	// Throttled are the sources' quotas that are used up, for which models here wait.
	Throttled []agent.ThrottledStatus `json:"throttled,omitempty"`
	Troubles  []Trouble               `json:"troubles,omitempty"`

	// counted is how many models it should hold and holds, where Models were not kept.
	counted *warmth
	labels  map[string]string
	owners  map[string][]string
	taints  []taint
}

// GPUs is what is known of a node's GPUs, as the agent rounds it.
type GPUs struct {
	Known  bool   `json:"known"`
	Reason string `json:"reason,omitempty"`
	Name   string `json:"name,omitempty"`
	Count  int    `json:"count"`
	Idle   int    `json:"idle"`
	// TotalBytes is the memory of the largest GPU as nvidia-smi reports it,
	// UsableBytes as CUDA does, of which vLLM takes its share. FreeBytes is the
	// largest free memory on one, rounded down to 4 GiB.
	TotalBytes  uint64 `json:"totalBytes"`
	UsableBytes uint64 `json:"usableBytes"`
	FreeBytes   uint64 `json:"freeBytes"`
	// Unallocated is how many GPUs are given to no pod; nil: not known.
	Unallocated *int `json:"unallocated"`
	// Allocatable is what the device plugin offers; nil: there is none.
	Allocatable *int `json:"allocatable"`
	// Leaks is memory in use though no pod on the node has a GPU.
	Leaks []Leak `json:"leaks,omitempty"`
}

// Leak is memory that is in use though no pod asked for it.
type Leak struct {
	GPU   int       `json:"gpu"`
	MIG   string    `json:"mig,omitempty"`
	UUID  string    `json:"uuid,omitempty"`
	Bytes uint64    `json:"bytes"`
	Since time.Time `json:"since"`
}

// Store is what is known of a node's store.
type Store struct {
	Known  bool   `json:"known"`
	Reason string `json:"reason,omitempty"`
	// Bytes is what the store holds; FreeBytes of TotalBytes are free on its
	// file system.
	Bytes      int64 `json:"bytes"`
	FreeBytes  int64 `json:"freeBytes"`
	TotalBytes int64 `json:"totalBytes"`
	// ReadBytesPerSecond is how fast its volume reads what is not in memory, as
	// measured at ReadAt; 0: not known.
	ReadBytesPerSecond int64      `json:"readBytesPerSecond"`
	ReadAt             *time.Time `json:"readAt,omitempty"`
}

// ModelList is the model list in force on a node.
type ModelList struct {
	Models int `json:"models"`
	// Rejected says why the list on file is not in force.
	Rejected string `json:"rejected,omitempty"`
}

// Codes of a [Trouble].
const (
	TroubleNotReady     = "notReady"
	TroubleNoAgent      = "noAgent"
	TroubleLabelsOnly   = "labelsOnly"
	TroubleWithdrawn    = "labelsWithdrawn"
	TroubleUnreadable   = "unreadable"
	TroubleNewer        = "newer"
	TroubleDisagreement = "disagreement"
	TroubleList         = "listRejected"
	TroubleStore        = "store"
	TroubleThrottled    = "throttled"
	TroubleGPUs         = "gpusUnknown"
	TroubleLeak         = "leak"
	TroubleSilent       = "silent"
	TroubleClock        = "clock"
	TroubleOmitted      = "modelsOmitted"
)

// Trouble is something about a node that somebody should look at.
type Trouble struct {
	// Code is one of the Trouble constants.
	Code string `json:"code"`
	Text string `json:"text"`
}

// ModelOnNode is one model on one node.
type ModelOnNode struct {
	Name   string `json:"name"`
	Source string `json:"source,omitempty"`
	// State is the annotation's; empty: only a label names the model.
	State agent.State `json:"state"`
	// Omitted says that the annotation had no room for it and only its labels are
	// known, which are the agent's.
	Omitted bool `json:"omitted,omitempty"`
	// Wanted says that the list or a pod wants it on this node.
	Wanted bool `json:"wanted"`
	// Warm says that both label and annotation call it warm, or that the label does and
	// the annotation had no room; Label is the label's value, empty without one.
	Warm  bool   `json:"warm"`
	Label string `json:"label"`
	// Tier and Revision are the annotation's, or without one the labels'.
	Tier     string `json:"tier,omitempty"`
	Revision string `json:"revision,omitempty"`
	// Bytes is the size of the published revision.
	Bytes int64 `json:"bytes"`
	// RAM is what becomes of a model that is to be in memory, one of the agent's RAM
	// constants; empty: it is not to be. ResidentBytes are there, NotInRAM says why
	// not all are.
	RAM           string `json:"ram,omitempty"`
	ResidentBytes int64  `json:"residentBytes"`
	NotInRAM      string `json:"notInRam,omitempty"`
	// LoadSeconds is about how long it takes to read what is not in memory; nil: not
	// known, or Tier says that it is there.
	LoadSeconds *int64 `json:"loadSeconds"`
	// DoneBytes of TotalBytes are there of what is being pulled.
	DoneBytes          int64 `json:"doneBytes"`
	TotalBytes         int64 `json:"totalBytes"`
	RateBytesPerSecond int64 `json:"rateBytesPerSecond"`
	SecondsLeft        int64 `json:"secondsLeft"`
	// Fits is how many replicas could start now for certain; nil: not known. Tight is
	// how many more may start, or not.
	Fits  *int `json:"fits"`
	Tight int  `json:"tight,omitempty"`
	// Need is what one replica takes; nil: not known, and NeedUnknown may say why.
	Need        *agent.ReplicaNeed `json:"need,omitempty"`
	NeedUnknown string             `json:"needUnknown,omitempty"`
	// Measured is what replicas that run there took; nil: none was measured.
	Measured *agent.MeasuredStatus `json:"measured,omitempty"`
	// Pods is how many pods on the node name the model.
	Pods   int    `json:"pods"`
	Reason string `json:"reason,omitempty"`
	Hint   string `json:"hint,omitempty"`
	Code   string `json:"code,omitempty"`
	// NextAttempt is when the agent does what Reason waits for.
	NextAttempt *time.Time `json:"nextAttempt,omitempty"`
	// Disagreements say where labels contradict the annotation.
	Disagreements []string `json:"disagreements,omitempty"`

	said bool
}

// Model is one model over all nodes.
type Model struct {
	Name string `json:"name"`
	// Sources that nodes name for it, the most frequent one first.
	Sources []string `json:"sources"`
	// Bytes is the size of the revision that most nodes have.
	Bytes int64 `json:"bytes"`
	// Wanted is how many nodes should hold it, Warm how many of them do.
	Wanted int `json:"wanted"`
	Warm   int `json:"warm"`
	// States counts the nodes that should hold it by state.
	States map[agent.State]int `json:"states"`
	// Revisions that are warm somewhere, the most frequent one first.
	Revisions []Revision `json:"revisions"`
	// Fits is how many replicas could start now, on FitsNodes nodes;
	// FitsUnknown is how many warm nodes cannot tell.
	Fits        int `json:"fits"`
	FitsNodes   int `json:"fitsNodes"`
	FitsUnknown int `json:"fitsUnknown"`
	// Pods is how many pods name it.
	Pods int `json:"pods"`
}

// Revision is one published revision of a model.
type Revision struct {
	Revision string `json:"revision"`
	// Nodes is how many nodes are warm at it.
	Nodes int `json:"nodes"`
}
