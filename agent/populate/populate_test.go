package populate_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/populate"
	"github.com/stoker-project/stoker/fetcher"
)

// puller notes what it is asked for.
type puller struct {
	asked []string
	pull  func(name string) error
}

func (p *puller) Pull(_ context.Context, req fetcher.Request) (fetcher.Result, error) {
	p.asked = append(p.asked, req.Name+" "+req.Access.CredentialsDir)
	return fetcher.Result{Name: req.Name}, p.pull(req.Name)
}

func config(t *testing.T, text string) agent.Config {
	t.Helper()
	cfg, err := agent.ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

const list = `
models:
- {name: a, source: 'hf://org/a'}
- {name: b, source: 'hf://org/b', priority: 7, credentials: team, nodeSelector: {pool: x}}
- {name: c, source: 'hf://org/c', priority: -1}
pull: {concurrentModels: 1}
`

func TestTheMostImportantComesFirst(t *testing.T) {
	p := &puller{pull: func(name string) error {
		if name == "b" {
			return errors.New("gated")
		}
		return nil
	}}
	report, err := populate.Run(t.Context(), populate.Options{Config: config(t, list), CredentialsDir: "/secrets", Puller: p, Prune: true, Logger: slog.New(slog.DiscardHandler)})
	if want := []string{"b /secrets/team", "a ", "c "}; !slices.Equal(p.asked, want) {
		t.Errorf("asked for %q, want %q", p.asked, want)
	}
	if err == nil || !strings.Contains(err.Error(), "b: gated") {
		t.Errorf("the error is %v", err)
	}
	for i, name := range []string{"a", "b", "c"} {
		if o := report.Outcomes[i]; o.Model.Name != name || (o.Err != nil) != (name == "b") {
			t.Errorf("outcome %d: %+v", i, o)
		}
	}
}

func TestAnInterruptionBeginsNothingMore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := &puller{pull: func(string) error {
		cancel()
		return ctx.Err()
	}}
	report, err := populate.Run(ctx, populate.Options{Config: config(t, list), Puller: p, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, context.Canceled) || len(p.asked) != 1 {
		t.Errorf("%v after %q", err, p.asked)
	}
	for _, o := range report.Outcomes {
		if o.Err == nil {
			t.Errorf("%s counts as done", o.Model.Name)
		}
	}
}
