package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
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
		Long: `Wait until the node's agent has published the model. Needs no network and no
Kubernetes API, and only a read-only mount of the store. Shows how far the pull
is; ends at once with the agent's reason when the model is refused for good
(exit codes 3 and 5), and with exit code 1 after --timeout, or when no agent
gave a sign of life for two minutes.

With --pin, DIR/model becomes a symlink to the revision that is published now:
give it to vLLM as --model, and a later update mixes nothing.`,
		Example: "  stoker wait qwen2.5-7b-instruct --store /models --pin /stoker",
		Args:    exactArgs("a model's NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames(args); err != nil {
				return err
			}
			if f.timeout <= 0 {
				return usage(fmt.Errorf("--timeout %s must be positive", f.timeout))
			}
			m, s, err := (&waiter{name: args[0], dir: f.store, out: c.stderr, began: time.Now(), rate: newRate()}).wait(cmd.Context(), f.timeout)
			if err != nil {
				return err
			}
			path := s.Path(m.Name, m.Revision)
			if f.pin != "" {
				if path, err = pin(f.pin, path); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintln(c.stdout, path)
			return err
		},
	}
	storeFlag(cmd, &f.store)
	cmd.Flags().DurationVar(&f.timeout, "timeout", defaultWaitIs, "how long to wait")
	cmd.Flags().StringVar(&f.pin, "pin", "", "leave DIR/model, a symlink to the published revision")
	return cmd
}

// waiter looks at a store until a model is published.
type waiter struct {
	name, dir string
	out       io.Writer
	began     time.Time
	said      time.Time
	lastText  string
	rate      *rateMeter
}

func (w *waiter) wait(ctx context.Context, timeout time.Duration) (store.Manifest, *store.Store, error) {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	ticker := time.NewTicker(waitPoll)
	defer ticker.Stop()
	for {
		s, m, text, err := w.look(ctx)
		if err != nil || text == "" {
			return m, s, err
		}
		w.say(text)
		select {
		case <-ctx.Done():
			return m, nil, ctx.Err()
		case <-deadline.C:
			return m, nil, fmt.Errorf("wait for %s in %s: not published after %s; last seen: %s", w.name, w.dir, timeout, text)
		case <-ticker.C:
		}
	}
}

// look returns the published model, or a text that says what it waits for, or
// an error that ends the wait.
func (w *waiter) look(ctx context.Context) (*store.Store, store.Manifest, string, error) {
	s, err := store.OpenReadOnly(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, store.Manifest{}, "waiting: there is no store at " + w.dir + " yet", w.checkAgent(nil)
	}
	if err != nil {
		return nil, store.Manifest{}, "", err
	}
	m, err := s.Lookup(w.name)
	if err == nil {
		// Whether the files are there, not whether they changed: the records
		// of that are the agent's.
		if err = s.Present(ctx, m); err == nil {
			return s, m, "", nil
		}
		return s, m, "waiting for a repair: " + err.Error(), w.checkAgent(s)
	}
	if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrCorrupt) {
		return s, m, "", err
	}
	st, err := s.ReadStatus(w.name)
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrCorrupt) {
		return s, m, "", err
	}
	if err := w.checkAgent(s); err != nil {
		return s, m, "", err
	}
	if err != nil {
		return s, m, "waiting: the agent has not begun to pull " + w.name, nil
	}
	return s, m, w.describe(st), refusal(w.name, st)
}

// describe is a status in one line.
func (w *waiter) describe(st store.Status) string {
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
	return text
}

// refusal is the agent's reason when waiting is in vain.
func refusal(name string, st store.Status) error {
	kinds := map[string]error{store.CodeRefused: fetcher.ErrRefused, store.CodeNoRoom: fetcher.ErrNoSpace}
	kind, final := kinds[st.Code]
	if !final {
		return nil
	}
	return &fetcher.Error{Kind: kind, Op: "wait for", Origin: name, Err: fmt.Errorf("the agent says %s: %s", st.State, st.Reason), Hint: st.Hint}
}

// checkAgent fails when the agent gave no sign of life for agentMissing, which
// begins anew with this wait: on a node that just started, the agent may come
// after the pod.
func (w *waiter) checkAgent(s *store.Store) error {
	seen := w.began
	if s != nil {
		if h, err := s.ReadHeartbeat(); err == nil && h.Time.After(seen) {
			seen = h.Time
		}
	}
	if time.Since(seen) < agentMissing {
		return nil
	}
	return fmt.Errorf("wait for %s in %s: no Stoker agent on this node (no heartbeat for %s); check that its DaemonSet runs here and that this is its volume", w.name, w.dir, agentMissing)
}

// say writes what is new, and now and then what is not.
func (w *waiter) say(text string) {
	if now := time.Now(); now.Sub(w.said) >= waitSay || w.lastText == "" {
		fmt.Fprintln(w.out, text)
		w.said, w.lastText = now, text
	}
}

// pin makes DIR/model a symlink to the revision's directory, atomically.
func pin(dir, target string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the serving container runs as another uid
		return "", fmt.Errorf("pin: %w", err)
	}
	link, tmp := filepath.Join(dir, "model"), filepath.Join(dir, ".model.tmp")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("pin: %w", err)
	}
	if err := os.Symlink(target, tmp); err != nil {
		return "", fmt.Errorf("pin: %w", err)
	}
	if err := os.Rename(tmp, link); err != nil {
		return "", fmt.Errorf("pin: %w", err)
	}
	return link, nil
}
