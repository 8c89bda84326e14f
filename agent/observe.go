package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"
	"time"

	"github.com/stoker-project/stoker/agent/measure"
	"github.com/stoker-project/stoker/fetcher/secrets"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// Store is what the agent needs of the store; *store.Store is one.
type Store interface {
	// Ensure looks whether the store is where it was, before anything in it is
	// believed; store.ErrVanished.
	Ensure(ctx context.Context) error
	// Published returns the current manifest of every published model.
	Published() ([]store.Manifest, error)
	// Revisions returns all published revisions of a model.
	Revisions(name string) ([]store.Manifest, error)
	// Damaged returns the revisions of a model whose manifests cannot be read.
	Damaged(name string) ([]string, error)
	// Check compares a revision with what stat shows; store.ErrCorrupt.
	Check(ctx context.Context, m store.Manifest) error
	Usage() (store.Usage, error)
	// Leaving are the models that no agent may promise, because the writer of a
	// shared store is about to take their files; SetLeaving says so, or takes it
	// back.
	Leaving() (map[string]bool, error)
	SetLeaving(name string, leaving bool) error
	// Lead makes this process the writer of a shared store, Follow ends that.
	Lead(ctx context.Context) error
	Follow()
	// Files are the published files of a revision.
	Files(name, revision string) fs.FS
	// BeforeWithdraw sets what is asked before published files are taken away
	// because they turned out wrong.
	BeforeWithdraw(ask func(ctx context.Context, names []string) error)
	Remover
	StatusWriter
	Scrubber
	// Recheck reads again what was found wrong longer than age ago and could not be
	// written down, and reports whether any of it is right by now.
	Recheck(ctx context.Context, age time.Duration) (changed bool, err error)
	Inspected
	Warmer
}

// Devices reads this machine's GPUs; *gpu.Reader is one.
type Devices interface {
	Devices(ctx context.Context) ([]gpu.Device, error)
}

// listView is the configuration file as it stands.
type listView struct {
	data []byte
	cfg  Config
	err  error // why it is not valid
	// credentials are the digests of the mounted Secrets, by name.
	credentials map[string][sha256.Size]byte
}

// readList reads the file, and the Secrets that its entries may refer to; that
// it is not valid is no error of the reading.
func readList(path, credentialsDir string, hidden *secrets.Set) (listView, error) {
	data, err := ReadConfigFile(path)
	if err != nil {
		return listView{}, fmt.Errorf("read the configuration: %w", err)
	}
	cfg, err := ParseConfig(data)
	return listView{data: data, cfg: cfg, err: err, credentials: credentialDigests(credentialsDir, hidden)}, nil
}

// storeObserver looks at the store. It remembers what published models need on
// a GPU, because their headers never change. Only one look runs at a time.
type storeObserver struct {
	store Store
	read  func(fs.FS) (sizing.Model, error)
	sizes map[string]sized // by name
	// taking is what pulls under way will still take, by model; nil: nothing.
	taking func() map[string]int64
	// memory is what earlier runs knew, read by the first look that succeeds.
	memory *agentMemory
	// forget has it read anew: another agent may have written it since.
	forget atomic.Bool
	// sealed: nobody writes into the store, and what an agent may have left there of
	// its memory was another one's.
	sealed bool
}

// agentMemory is what the memory file said.
type agentMemory struct {
	models    map[string]modelMemory
	coldSince time.Time
	err       error
	// measured is what replicas took, and measuredErr why that is not known.
	measured    measure.Book
	measuredErr error
}

type sized struct {
	revision  string
	published time.Time // the same revision may be published with other files
	size      *sizing.Model
	err       error     // why size is nil
	again     time.Time // when it is to be tried again, where it is
}

// look lists what is published and checks each file by stat. Each model may
// take a timeout of its own: beat says that there is progress.
func (o *storeObserver) look(ctx context.Context, beat func()) (storeView, error) {
	if err := o.store.Ensure(ctx); err != nil {
		return storeView{}, err
	}
	published, err := o.store.Published()
	if err != nil {
		return storeView{}, err
	}
	beat()
	view := storeView{Models: make(map[string]storedModel, len(published))}
	sizes := make(map[string]sized, len(published))
	for _, m := range published {
		s := storedModel{Manifest: m, Err: o.store.Check(ctx, m)}
		beat()
		if errors.Is(s.Err, store.ErrNotFound) {
			continue // removed since it was listed
		}
		if s.Err != nil && !errors.Is(s.Err, store.ErrCorrupt) && ctx.Err() != nil {
			return storeView{}, s.Err
		}
		if s.Err == nil {
			known, ok := o.sizes[m.Name]
			if !ok || known.revision != m.Revision || !known.published.Equal(m.PublishedAt) || known.err != nil && time.Now().After(known.again) {
				known = o.sizeOf(m)
				beat()
			}
			sizes[m.Name], s.Size, s.SizeErr = known, known.size, known.err
		}
		if s.Old, err = o.old(m); err != nil {
			return storeView{}, err
		}
		view.Models[m.Name] = s
	}
	o.sizes = sizes
	switch {
	case o.sealed:
		o.memory = &agentMemory{}
	case o.forget.Swap(false) || o.memory == nil:
		m, err := readMemory(o.store.AgentFile(memoryFile))
		o.memory = &agentMemory{models: m.Models, coldSince: m.ColdSince, err: err}
		o.memory.measured, o.memory.measuredErr = readMeasured(o.store.AgentFile(measure.File))
	}
	view.Memory = o.memory
	if view.Leaving, err = o.store.Leaving(); err != nil {
		return storeView{}, err
	}
	if o.taking != nil {
		view.Taking = o.taking() // first: what arrives in between is counted twice, not forgotten
	}
	view.Usage, err = o.store.Usage()
	if o.sealed {
		view.Usage.ReadOnly = false // as it is to be
	}
	return view, err
}

// old lists the revisions that the current one has superseded. Of those whose
// manifest is damaged nothing is known but that they are to go.
func (o *storeObserver) old(current store.Manifest) ([]store.Manifest, error) {
	all, err := o.store.Revisions(current.Name)
	if err != nil {
		return nil, err
	}
	damaged, err := o.store.Damaged(current.Name)
	if err != nil {
		return nil, err
	}
	for _, revision := range damaged {
		all = append(all, store.Manifest{Name: current.Name, Revision: revision})
	}
	return slices.DeleteFunc(all, func(m store.Manifest) bool { return m.Revision == current.Revision }), nil
}
