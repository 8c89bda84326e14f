package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/printable"
)

// How wait looks and when it gives up on the agent.
const (
	waitPoll      = 500 * time.Millisecond
	waitSay       = 10 * time.Second
	agentMissing  = 2 * time.Minute
	defaultWaitIs = time.Hour
)

type waitFlags struct {
	store, pin string
	timeout    time.Duration
}

func (c *cli) waitCommand() *cobra.Command {
	var f waitFlags
	cmd := &cobra.Command{
		Use:   "wait NAME...",
		Short: "Wait until models are published in a store; for an init container",
		Long: `Wait until the agent of this node has published the model, and print the
directory that vllm serve takes. It needs no network and no Kubernetes API,
and the store may be mounted read-only. Standard error shows how far the pull is.
With several names it waits for all of them: the model, then its LoRA adapters,
64 at most.

With --pin, DIR/model becomes a symlink to the revision of the first that is
published now, DIR/adapters/NAME to that of each other one, and these paths are
printed. Give them to vllm serve (the first argument, and --lora-modules
NAME=DIR/adapters/NAME): an update while vLLM loads then mixes nothing.

It ends at once with the agent's reason if one is refused for good, and
with exit code 1 if no agent gave a sign of life for two minutes. On a volume that
no agent writes (volume.mode: readOnly) a model is there at once, or never.

Exit codes: 0 published, 1 timed out or no agent, 2 wrong usage, 3 the source
refuses, 5 the model finds no room on this node, 130 interrupted.`,
		Example: `  stoker wait qwen2.5-7b-instruct --store /models --pin /stoker
  stoker wait qwen2.5-7b-instruct sql-adapter --pin /stoker --timeout 10m`,
		Args: someArgs("a model's NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var timeoutErr, pinErr error
			if f.timeout <= 0 {
				timeoutErr = fmt.Errorf("--timeout %s is not positive; it takes a duration like 10m", f.timeout)
			}
			if cmd.Flags().Changed("pin") && f.pin == "" {
				pinErr = errors.New("--pin is empty; name a directory")
			}
			w := newWaiter(args, f, c.stderr)
			storeErr := w.within(cmd.Context(), func() error { return checkStore(f.store) })
			if timeoutErr == nil && (errors.Is(storeErr, errNoAnswer) || cmd.Context().Err() != nil) {
				return w.failed(c.volume, storeErr)
			}
			if err := c.check(checkNames(args), checkAdapters(args), timeoutErr, pinErr, storeErr); err != nil {
				return err
			}
			if f.pin != "" { // not only after an hour
				for i, name := range args {
					if err := preparePin(f.pin, pinLink(f.pin, i, name)); err != nil {
						return err
					}
				}
			}
			paths, err := w.wait(cmd.Context())
			if err != nil {
				return w.failed(c.volume, err)
			}
			for i, path := range paths {
				if f.pin != "" {
					if path, err = pin(pinLink(f.pin, i, args[i]), path); err != nil {
						return err
					}
				}
				if _, err = fmt.Fprintln(c.exact, path); err != nil {
					return err
				}
			}
			return nil
		},
	}
	storeFlag(cmd, &f.store)
	cmd.Flags().DurationVar(&f.timeout, "timeout", defaultWaitIs, "wait for this `DURATION` at most")
	cmd.Flags().StringVar(&f.pin, "pin", "", "leave `DIR`/model, a symlink to the published revision, and DIR/adapters/NAME for each further NAME")
	return cmd
}

// checkAdapters refuses more adapters behind a model's name than agents pull for a pod: the wait would be in vain.
func checkAdapters(names []string) error {
	if n := len(names) - 1; n > agent.MaxAdapters {
		return fmt.Errorf("%d adapters are too many; a pod may name %d (annotation %s)", n, agent.MaxAdapters, agent.AdaptersAnnotation)
	}
	return nil
}

// waiter looks at a store until models are published.
type waiter struct {
	models  []*awaited
	dir     string
	out     io.Writer
	began   time.Time
	timeout time.Duration
	// at is what it waits for just now, for errors.
	at string
}

// awaited is a model that is waited for.
type awaited struct {
	name string
	path string // of its published revision; empty: not yet
	rate *rateMeter

	said      time.Time
	saidState string
}

func newWaiter(names []string, f waitFlags, out io.Writer) *waiter {
	w := &waiter{dir: f.store, out: out, began: time.Now(), timeout: f.timeout, at: strings.Join(names, ", ")}
	for _, name := range names {
		w.models = append(w.models, &awaited{name: name, rate: newRate()})
	}
	return w
}

// sight is what one look at the store shows.
type sight struct {
	path  string // of the published revision; empty: not yet
	state string // what is waited for, in a word or two
	text  string // the same, with how far it is
}

// failed words why a wait has failed.
func (w *waiter) failed(volume *volumeWatch, err error) error {
	if errors.Is(err, errNoAnswer) {
		err = fmt.Errorf("not published after %s: %s, does not answer; see to its server, or wait longer with --timeout", w.timeout, volume.volume())
	}
	return fmt.Errorf("wait for %s in %s: %w", w.at, w.dir, err)
}

// within calls what touches the store, which may hang, and waits for it until the
// wait is over, but for volumeGrace at least, so that there is one look; errNoAnswer.
func (w *waiter) within(ctx context.Context, call func() error) error {
	return within(ctx, max(time.Until(w.began.Add(w.timeout)), volumeGrace), call)
}

// wait returns the directories of the published revisions.
func (w *waiter) wait(ctx context.Context) ([]string, error) {
	deadline := time.NewTimer(time.Until(w.began.Add(w.timeout)))
	defer deadline.Stop()
	ticker := time.NewTicker(waitPoll)
	defer ticker.Stop()
	for {
		missing, seen, err := w.lookAtAll(ctx)
		if err != nil {
			return nil, err
		}
		if missing == nil {
			return w.paths(), nil
		}
		w.at = missing.name
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			return nil, w.late(seen)
		case <-ticker.C:
		}
		if time.Since(w.began) >= w.timeout {
			return nil, w.late(seen)
		}
	}
}

// lookAtAll looks at every model that was not published when last looked at, and
// returns the first that still is not; nil: all are.
func (w *waiter) lookAtAll(ctx context.Context) (*awaited, sight, error) {
	var missing *awaited
	var first sight
	for _, m := range w.models {
		if m.path != "" {
			continue
		}
		w.at = m.name
		var seen sight
		err := w.within(ctx, func() (err error) {
			seen, err = w.look(ctx, m)
			return err
		})
		if err != nil {
			return nil, sight{}, err
		}
		if m.path = seen.path; m.path != "" {
			continue
		}
		w.say(m, seen)
		if missing == nil {
			missing, first = m, seen
		}
	}
	return missing, first, nil
}

func (w *waiter) paths() []string {
	paths := make([]string, 0, len(w.models))
	for _, m := range w.models {
		paths = append(paths, m.path)
	}
	return paths
}

func (w *waiter) late(seen sight) error {
	return fmt.Errorf("not published after %s; last seen: %s; ask the agent's log, or wait longer with --timeout", w.timeout, seen.text)
}

// look returns the published model, or what it waits for, or an error that
// ends the wait.
func (w *waiter) look(ctx context.Context, model *awaited) (sight, error) {
	s, err := store.OpenReadOnly(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return waiting("there is no store here yet"), w.checkAgent(model, nil)
	}
	if err != nil {
		return sight{}, err
	}
	m, err := s.Lookup(model.name)
	if err == nil {
		// Whether the files are there, not whether they changed: the records
		// of that are the agent's.
		if err = s.Present(ctx, m); err == nil {
			return sight{path: s.Path(m.Name, m.Revision)}, nil
		}
		if !errors.Is(err, fetcher.ErrCorrupt) {
			return sight{}, err
		}
		return waiting("a repair: " + err.Error()), w.checkAgent(model, s)
	}
	if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, fetcher.ErrCorrupt) {
		return sight{}, err
	}
	st, err := s.ReadStatus(model.name)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, fetcher.ErrCorrupt) {
		return waiting("the agent has not begun to pull " + model.name), w.checkAgent(model, s)
	}
	if err != nil {
		return sight{}, err
	}
	// Whoever writes the file, it is told in one line.
	st.State, st.Reason, st.Hint = printable.Line(st.State), printable.Line(st.Reason), printable.Line(st.Hint)
	if err := refusal(st); err != nil {
		return sight{}, err
	}
	return model.describe(st), w.checkAgent(model, s)
}

func waiting(reason string) sight {
	return sight{state: reason, text: "waiting: " + reason}
}

// describe is a status in one line.
func (m *awaited) describe(st store.Status) sight {
	text := st.State
	if st.Total > 0 {
		m.rate.add(time.Now(), st.Bytes, st.State)
		perSecond := float64(st.Rate)
		if perSecond == 0 {
			perSecond = m.rate.perSecond()
		}
		text = progressText(st.State, st.Bytes, st.Total, perSecond)
	}
	if st.Reason != "" {
		text += ": " + st.Reason
	}
	if st.Hint != "" {
		text += "; " + st.Hint
	}
	return sight{state: st.State + st.Reason, text: text}
}

// refusal is the agent's reason when waiting is in vain.
func refusal(st store.Status) error {
	var kind error
	switch st.Code {
	case store.CodeRefused:
		kind = fetcher.ErrRefused
	case store.CodeNoRoom:
		kind = fetcher.ErrNoSpace
	default:
		return nil
	}
	hint := st.Hint
	if hint == "" {
		hint = "see the agent's log on this node"
	}
	return &fetcher.Error{Kind: kind, Op: "the agent could not pull it", Err: errors.New(st.Reason), Hint: hint}
}

// checkAgent fails when the agent gave no sign of life for agentMissing, which
// begins anew with this wait: on a node that just started, the agent may come
// after the pod.
func (w *waiter) checkAgent(model *awaited, s *store.Store) error {
	seen, never := w.began, false
	if s != nil {
		h, err := s.ReadHeartbeat()
		if err == nil && h.Time.After(seen) {
			seen = h.Time
		}
		never = errors.Is(err, store.ErrNotFound)
	}
	if time.Since(seen) < agentMissing {
		return nil
	}
	if never {
		// A volume that is mounted read-only everywhere looks like this.
		return fmt.Errorf("no Stoker agent on this node writes into this volume (no heartbeat for %s, and none before): if nobody is to write it (volume.mode: readOnly), populate one with %s and mount that; else check that the DaemonSet runs here and that this is its volume", agentMissing, model.name)
	}
	return fmt.Errorf("no Stoker agent on this node (no heartbeat for %s); check that its DaemonSet runs here and that this is its volume", agentMissing)
}

// say writes what is new, and now and then how far it is.
func (w *waiter) say(m *awaited, seen sight) {
	now := time.Now()
	if seen.state == m.saidState && now.Sub(m.said) < waitSay {
		return
	}
	if len(w.models) > 1 {
		seen.text = m.name + ": " + seen.text
	}
	fmt.Fprintln(w.out, seen.text)
	m.said, m.saidState = now, seen.state
}
