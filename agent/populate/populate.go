// Package populate fills a volume with the models of a list, once: what is mounted
// afterwards, read-only, by all nodes. It knows no cluster; agents that look after a
// volume for as long as it is used are package agent.
package populate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// Store is what is filled; *store.Store is one.
type Store interface {
	Published() ([]store.Manifest, error)
	Revisions(name string) ([]store.Manifest, error)
	Remove(ctx context.Context, name string) error
	RemoveRevision(ctx context.Context, name, revision string) error
	GC(ctx context.Context, olderThan time.Duration) (store.GCResult, error)
}

// Puller brings models into it; *fetcher.Fetcher is one.
type Puller interface {
	Pull(ctx context.Context, req fetcher.Request) (fetcher.Result, error)
}

// Options of Run. All are required but for Progress.
type Options struct {
	// Config has the list, and how many models are pulled at once.
	Config agent.Config
	// CredentialsDir holds one folder for each Secret that entries refer to.
	CredentialsDir string
	Store          Store
	Puller         Puller
	// Prune says to remove what the list does not have, and superseded revisions,
	// when every model of the list is there.
	Prune bool
	// Progress, if not nil, is told how far a model is, by one goroutine at a time
	// for each.
	Progress func(name string, p fetcher.Progress)
	Logger   *slog.Logger
}

// Outcome is what became of one model of the list.
type Outcome struct {
	Model  agent.Model
	Result fetcher.Result
	Err    error
}

// Report is what Run did.
type Report struct {
	// Outcomes are of all models, in the list's order.
	Outcomes []Outcome
	// Removed are the models and old revisions that were pruned, Freed how many
	// bytes that were.
	Removed []string
	Freed   int64
}

// Run pulls every model of the list, the most important first, whatever nodes it is
// for. One that fails keeps no other from being pulled. The error joins those of
// all; the report is complete as far as Run came.
func Run(ctx context.Context, o Options) (Report, error) {
	report := Report{Outcomes: make([]Outcome, len(o.Config.Models))}
	order := make([]int, len(o.Config.Models))
	for i, m := range o.Config.Models {
		order[i], report.Outcomes[i] = i, Outcome{Model: m, Err: context.Canceled}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(o.Config.Models[b].Priority, o.Config.Models[a].Priority)
	})
	var g errgroup.Group
	g.SetLimit(o.Config.Pull.ConcurrentModels)
	for _, i := range order {
		g.Go(func() error {
			if ctx.Err() == nil {
				report.Outcomes[i] = o.pull(ctx, o.Config.Models[i])
			}
			return nil
		})
	}
	_ = g.Wait() // what failed stands in the outcomes
	var errs []error
	for _, out := range report.Outcomes {
		if out.Err != nil && (ctx.Err() == nil || !errors.Is(out.Err, context.Canceled)) {
			errs = append(errs, fmt.Errorf("%s: %w", out.Model.Name, out.Err))
		}
	}
	if err := errors.Join(append(errs, ctx.Err())...); err != nil || !o.Prune {
		return report, err
	}
	return report, o.prune(ctx, &report)
}

func (o Options) pull(ctx context.Context, m agent.Model) Outcome {
	req := m.Request(o.CredentialsDir)
	if o.Progress != nil {
		req.Progress = func(p fetcher.Progress) { o.Progress(m.Name, p) }
	}
	res, err := o.Puller.Pull(ctx, req)
	if err == nil {
		o.Logger.Info("model is there", "model", m.Name, "revision", res.Revision, "bytes", res.Bytes, "downloaded_bytes", res.DownloadedBytes, "seconds", res.Duration.Seconds())
	}
	return Outcome{Model: m, Result: res, Err: err}
}

// prune removes what the list does not have. Nobody reads a volume that is being
// populated, so nobody is asked.
func (o Options) prune(ctx context.Context, report *Report) error {
	published, err := o.Store.Published()
	if err != nil {
		return fmt.Errorf("look what the list does not have: %w", err)
	}
	for _, m := range published {
		if !slices.ContainsFunc(o.Config.Models, func(l agent.Model) bool { return l.Name == m.Name }) {
			if err := o.Store.Remove(ctx, m.Name); err != nil {
				return fmt.Errorf("remove %s, which the list does not have: %w", m.Name, err)
			}
			report.Removed = append(report.Removed, m.Name)
			continue
		}
		old, err := o.Store.Revisions(m.Name)
		if err != nil {
			return fmt.Errorf("look at old revisions of %s: %w", m.Name, err)
		}
		for _, r := range old {
			if r.Revision == m.Revision {
				continue
			}
			if err := o.Store.RemoveRevision(ctx, m.Name, r.Revision); err != nil {
				return fmt.Errorf("remove revision %s of %s, which was superseded: %w", r.Revision, m.Name, err)
			}
			report.Removed = append(report.Removed, m.Name+"@"+r.Revision)
		}
	}
	res, err := o.Store.GC(ctx, 0)
	if err != nil {
		return fmt.Errorf("collect what nothing refers to: %w", err)
	}
	report.Freed = res.RemovedBytes
	if len(report.Removed) > 0 {
		o.Logger.Info("removed what the list does not have", "removed", strings.Join(report.Removed, " "), "bytes", res.RemovedBytes)
	}
	return nil
}
