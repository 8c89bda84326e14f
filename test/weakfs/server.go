package weakfs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// settings are what the serving process is told when it starts.
type settings struct {
	// Dir is the volume, Mounts where it is mounted.
	Dir    string   `json:"dir"`
	Mounts []string `json:"mounts"`
	// Cached is for how long a mount believes what it has seen.
	Cached time.Duration `json:"cached"`
	// Judged are the folders of which changes are told.
	Judged []string `json:"judged"`
}

// order from, and message to, the process that started this one.
type (
	command struct {
		// Answer: what a question was about may happen now.
		Answer bool `json:"answer,omitempty"`
		// Mount gets a mode; GiveUp fails what hangs in it.
		Mount  int   `json:"mount,omitempty"`
		Mode   Mode  `json:"mode,omitempty"`
		Left   int64 `json:"left,omitempty"`
		GiveUp bool  `json:"giveUp,omitempty"`
	}
	message struct {
		// Ready: the mounts are there; Done: the command was carried out.
		Ready bool `json:"ready,omitempty"`
		Done  bool `json:"done,omitempty"`
		// Before asks, After tells.
		Before *Change `json:"before,omitempty"`
		After  *Change `json:"after,omitempty"`
		Err    string  `json:"err,omitempty"`
	}
)

// served is set in the environment of the process that serves.
const served = "STOKER_TEST_WEAKFS"

// Main serves, if this process was started for that: call it first of all in
// TestMain. If ran, it has served, and code is for os.Exit.
func Main() (code int, ran bool) {
	text := os.Getenv(served)
	if text == "" {
		return 0, false
	}
	if err := serve(text); err != nil {
		_ = json.NewEncoder(os.Stdout).Encode(message{Err: err.Error()}) // nobody else to tell
		return 1, true
	}
	return 0, true
}

func serve(text string) (err error) {
	var set settings
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return err
	}
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	tell := func(m message) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(m) // whoever listens may have ended, and then this ends too
	}
	answers := make(chan struct{})
	o := &order{
		judged: func(path string) bool { return below(path, set.Judged) },
		before: func(c Change) {
			tell(message{Before: &c})
			<-answers
		},
		after: func(c Change) { tell(message{After: &c}) },
	}
	var states []*state
	for i, at := range set.Mounts {
		s, server, mountErr := mount(set, i, at, o)
		if mountErr != nil {
			return fmt.Errorf("mount %s: %w", at, mountErr)
		}
		defer func() { err = errors.Join(err, server.Unmount()) }()
		states = append(states, s)
	}
	tell(message{Ready: true})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		switch {
		case c.Answer:
			answers <- struct{}{}
			continue
		case c.GiveUp:
			states[c.Mount].giveUp()
		default:
			states[c.Mount].set(c.Mode, c.Left)
		}
		tell(message{Done: true})
	}
	for _, s := range states {
		s.set(Healthy, 0)
	}
	return lines.Err()
}

func mount(set settings, number int, at string, o *order) (*state, *fuse.Server, error) {
	root, err := newRoot(set.Dir, number, o)
	if err != nil {
		return nil, nil, err
	}
	s := &state{changed: make(chan struct{})}
	raw := &failing{fs.NewNodeFS(root, &fs.Options{EntryTimeout: &set.Cached, AttrTimeout: &set.Cached, NegativeTimeout: &set.Cached}), s}
	server, err := fuse.NewServer(raw, at, &fuse.MountOptions{
		AllowOther: true, FsName: "weak", Name: "weak", DirectMountStrict: true,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH, // else pages are everybody's
	})
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENODEV) {
		return nil, nil, fmt.Errorf("there is no FUSE here: %w", err)
	}
	if err != nil {
		return nil, nil, err
	}
	go server.Serve()
	return s, server, server.WaitMount()
}
