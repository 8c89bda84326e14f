package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

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
		Use:   "wait NAME",
		Short: "Wait until a model is published in a store; for an init container",
		Long: `Wait until the agent of this node has published the model, and print the
directory that vllm serve takes. It needs no network and no Kubernetes API,
and the store may be mounted read-only. Standard error shows how far the pull is.

With --pin, DIR/model becomes a symlink to the revision that is published now,
and that path is printed. Give it to vllm serve: an update of the model
while vLLM loads then mixes nothing.

It ends at once with the agent's reason if the model is refused for good, and
with exit code 1 if no agent gave a sign of life for two minutes. On a volume that
no agent writes (volume.mode: readOnly) a model is there at once, or never.

Exit codes: 0 published, 1 timed out or no agent, 2 wrong usage, 3 the source
refuses, 5 the model finds no room on this node, 130 interrupted.`,
		Example: `  stoker wait qwen2.5-7b-instruct --store /models --pin /stoker
  stoker wait qwen2.5-7b-instruct --timeout 10m`,
		Args: exactArg("a model's NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var timeoutErr, pinErr error
			if f.timeout <= 0 {
				timeoutErr = fmt.Errorf("--timeout %s is not positive; it takes a duration like 10m", f.timeout)
			}
			if cmd.Flags().Changed("pin") && f.pin == "" {
				pinErr = errors.New("--pin is empty; name a directory")
			}
			w := &waiter{name: args[0], dir: f.store, out: c.stderr, began: time.Now(), timeout: f.timeout, rate: newRate()}
			storeErr := w.within(cmd.Context(), func() error { return checkStore(f.store) })
			if timeoutErr == nil && (errors.Is(storeErr, errNoAnswer) || cmd.Context().Err() != nil) {
				return w.failed(c.volume, storeErr)
			}
			if err := c.check(checkNames(args), timeoutErr, pinErr, storeErr); err != nil {
				return err
			}
			if f.pin != "" { // not only after an hour
				if err := preparePin(f.pin); err != nil {
					return err
				}
			}
			path, err := w.wait(cmd.Context())
			if err != nil {
				return w.failed(c.volume, err)
			}
			if f.pin != "" {
				if path, err = pin(f.pin, path); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintln(c.exact, path)
			return err
		},
	}
	storeFlag(cmd, &f.store)
	cmd.Flags().DurationVar(&f.timeout, "timeout", defaultWaitIs, "wait for this `DURATION` at most")
	cmd.Flags().StringVar(&f.pin, "pin", "", "leave `DIR`/model, a symlink to the published revision")
	return cmd
}

// waiter looks at a store until a model is published.
type waiter struct {
	name, dir string
	out       io.Writer
	began     time.Time
	timeout   time.Duration
	rate      *rateMeter

	said      time.Time
	saidState string
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
	return fmt.Errorf("wait for %s in %s: %w", w.name, w.dir, err)
}

// within calls what touches the store, which may hang, and waits for it until the
// wait is over, but for volumeGrace at least, so that there is one look; errNoAnswer.
func (w *waiter) within(ctx context.Context, call func() error) error {
	return within(ctx, max(time.Until(w.began.Add(w.timeout)), volumeGrace), call)
}

// wait returns the published revision's directory.
func (w *waiter) wait(ctx context.Context) (string, error) {
	deadline := time.NewTimer(time.Until(w.began.Add(w.timeout)))
	defer deadline.Stop()
	ticker := time.NewTicker(waitPoll)
	defer ticker.Stop()
	for {
		var seen sight
		err := w.within(ctx, func() (err error) {
			seen, err = w.look(ctx)
			return err
		})
		if err != nil {
			return "", err
		}
		if seen.path != "" {
			return seen.path, nil
		}
		w.say(seen)
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-deadline.C:
			return "", w.late(seen)
		case <-ticker.C:
		}
		if time.Since(w.began) >= w.timeout {
			return "", w.late(seen)
		}
	}
}

func (w *waiter) late(seen sight) error {
	return fmt.Errorf("not published after %s; last seen: %s; ask the agent's log, or wait longer with --timeout", w.timeout, seen.text)
}

// look returns the published model, or what it waits for, or an error that
// ends the wait.
func (w *waiter) look(ctx context.Context) (sight, error) {
	s, err := store.OpenReadOnly(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return waiting("there is no store here yet"), w.checkAgent(nil)
	}
	if err != nil {
		return sight{}, err
	}
	m, err := s.Lookup(w.name)
	if err == nil {
		// Whether the files are there, not whether they changed: the records
		// of that are the agent's.
		if err = s.Present(ctx, m); err == nil {
			return sight{path: s.Path(m.Name, m.Revision)}, nil
		}
		if !errors.Is(err, fetcher.ErrCorrupt) {
			return sight{}, err
		}
		return waiting("a repair: " + err.Error()), w.checkAgent(s)
	}
	if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, fetcher.ErrCorrupt) {
		return sight{}, err
	}
	st, err := s.ReadStatus(w.name)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, fetcher.ErrCorrupt) {
		return waiting("the agent has not begun to pull " + w.name), w.checkAgent(s)
	}
	if err != nil {
		return sight{}, err
	}
	// Whoever writes the file, it is told in one line.
	st.State, st.Reason, st.Hint = printable.Line(st.State), printable.Line(st.Reason), printable.Line(st.Hint)
	if err := refusal(st); err != nil {
		return sight{}, err
	}
	return w.describe(st), w.checkAgent(s)
}

func waiting(reason string) sight {
	return sight{state: reason, text: "waiting: " + reason}
}

// describe is a status in one line.
func (w *waiter) describe(st store.Status) sight {
	text := st.State
	if st.Total > 0 {
		w.rate.add(time.Now(), st.Bytes, st.State)
		perSecond := float64(st.Rate)
		if perSecond == 0 {
			perSecond = w.rate.perSecond()
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
func (w *waiter) checkAgent(s *store.Store) error {
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
		return fmt.Errorf("no Stoker agent on this node writes into this volume (no heartbeat for %s, and none before): if nobody is to write it (volume.mode: readOnly), populate one with %s and mount that; else check that the DaemonSet runs here and that this is its volume", agentMissing, w.name)
	}
	return fmt.Errorf("no Stoker agent on this node (no heartbeat for %s); check that its DaemonSet runs here and that this is its volume", agentMissing)
}

// say writes what is new, and now and then how far it is.
func (w *waiter) say(seen sight) {
	if now := time.Now(); seen.state != w.saidState || now.Sub(w.said) >= waitSay {
		fmt.Fprintln(w.out, seen.text)
		w.said, w.saidState = now, seen.state
	}
}
