package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/store"
)

// How often the watch asks a store's volume for a sign of life, and how long it
// waits for one.
const (
	volumeAskEvery = 2 * time.Second
	// volumeAskEnding is the pace once the command was interrupted.
	volumeAskEnding = 250 * time.Millisecond
	// volumeSilence is how long a volume may be silent before the user is told.
	volumeSilence = 5 * time.Second
	// volumeGrace is what an interrupted command's volume has to answer in. While it
	// answers, the command has all the time it needs to end in good order.
	volumeGrace = time.Second
	// volumeLastWord is what an interrupted command has to end in where its volume is
	// known to hang: it may not need the volume for that.
	volumeLastWord = 200 * time.Millisecond
)

// volumeWatch reports when the volume of a command's store stops answering, and
// when it answers again. The command itself cannot: its calls into the file system
// then hang in the kernel. For the same reason it cannot end when it is interrupted,
// so the watch says when to give it up.
//
// The sign of life is statfs(2) of the store's directory, which always asks the
// server of a network file system, where stat may be answered from a cache.
//
// Every method but stop may be called at any time by any goroutine.
type volumeWatch struct {
	// ask returns when the volume answers, with whatever: an error is an answer.
	ask func()
	// volume names what ask is waiting for, without touching it.
	volume func() string
	// report tells the user, with the state and its duration.
	report func(volumeState, time.Duration)

	// givenUp receives the volume's name once, when the command was interrupted and
	// its volume does not answer.
	givenUp chan string
	started bool
	stopped chan struct{}
	ended   chan struct{}
}

// volumeState is what the watch reports of a volume.
type volumeState int

const (
	volumeSilent volumeState = iota
	volumeBack
)

func newVolumeWatch() *volumeWatch {
	return &volumeWatch{givenUp: make(chan string, 1), stopped: make(chan struct{}), ended: make(chan struct{})}
}

// start begins to watch. It touches no volume itself. It must not be called twice.
func (w *volumeWatch) start(dir string, interrupted <-chan struct{}, report func(what string, state volumeState, since time.Duration)) {
	at := &volumePath{}
	w.ask = func() { at.ask(dir) }
	w.volume = at.volume
	w.report = func(s volumeState, d time.Duration) { report(w.volume(), s, d) }
	w.run(interrupted)
}

// run begins the watch's goroutine.
func (w *volumeWatch) run(interrupted <-chan struct{}) {
	w.started = true
	go func() {
		defer close(w.ended)
		w.loop(interrupted)
	}()
}

// stop ends the watch. It waits for no answer of the volume.
func (w *volumeWatch) stop() {
	close(w.stopped)
	if w.started {
		<-w.ended
	}
}

func (w *volumeWatch) loop(interrupted <-chan struct{}) {
	// An ask that gets no answer is left behind: nothing ends a call into a hard
	// mount but the end of the process. There is one at a time.
	answers := make(chan struct{}, 1)
	ask := func() {
		w.ask()
		answers <- struct{}{}
	}
	now := time.Now()
	s := silence{asked: now, asking: true}
	go ask()
	timer := time.NewTimer(s.wait(now))
	defer timer.Stop()
	for {
		select {
		case <-w.stopped:
			return
		case <-interrupted:
			interrupted = nil
			s.interrupted = time.Now()
		case <-answers:
			s.asking = false
			if s.reported {
				s.reported = false
				w.report(volumeBack, time.Since(s.asked))
			}
		case <-timer.C:
		}
		now = time.Now()
		switch {
		case s.due(now) > 0:
		case !s.asking:
			s.asked, s.asking = now, true
			go ask()
		case !s.interrupted.IsZero():
			w.givenUp <- w.volume()
			return
		default:
			s.reported = true
			w.report(volumeSilent, now.Sub(s.asked))
		}
		timer.Reset(s.wait(now))
	}
}

// silence is how long a volume has not answered.
type silence struct {
	// asked is when it was asked last; asking says that it has not answered since.
	asked  time.Time
	asking bool
	// reported says that the user knows.
	reported bool
	// interrupted is when the command was; zero before.
	interrupted time.Time
}

// due is how long it takes until something is to be done: to ask, to report, or,
// once interrupted, to give up. Never is longer than any wait.
func (s silence) due(now time.Time) time.Duration {
	switch {
	case !s.asking && s.interrupted.IsZero():
		return s.asked.Add(volumeAskEvery).Sub(now)
	case !s.asking:
		return s.asked.Add(volumeAskEnding).Sub(now)
	case !s.interrupted.IsZero() && s.reported:
		return s.interrupted.Add(volumeLastWord).Sub(now)
	case !s.interrupted.IsZero():
		from := s.interrupted
		if s.asked.After(from) {
			from = s.asked
		}
		return from.Add(volumeGrace).Sub(now)
	case s.reported:
		return time.Hour // there is nothing to do but to wait
	}
	return s.asked.Add(volumeSilence).Sub(now)
}

func (s silence) wait(now time.Time) time.Duration { return max(s.due(now), 0) }

// volumePath asks for a sign of life of a directory that may not be there yet,
// and whose way there may hang as well.
type volumePath struct {
	// touched is the path that is waited for.
	touched atomic.Pointer[string]
}

// ask returns when the volume of dir, or of the nearest directory above it that is
// there, answers.
func (p *volumePath) ask(dir string) {
	if !filepath.IsAbs(dir) {
		wd, err := unix.Getwd() // os.Getwd looks at the directory, and may hang
		if err != nil {
			return
		}
		dir = filepath.Join(wd, dir)
	}
	found := p.resolve(dir)
	p.touch(found)
	var st unix.Statfs_t
	_ = unix.Statfs(found, &st) // an error is an answer
}

// maxLinks is where the kernel, too, takes links for a loop.
const maxLinks = 40

// resolve follows the symlinks in an absolute path one by one, so that it is known
// which of them hangs, as far as the path is there.
func (p *volumePath) resolve(path string) string {
	at, rest, links := "/", path, 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if name == "" {
			continue
		}
		next := filepath.Join(at, name)
		p.touch(next)
		target, err := os.Readlink(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return at
		case err != nil: // no link
			at = next
		case links == maxLinks:
			return at
		default:
			links++
			rest = target + "/" + rest
			if filepath.IsAbs(target) {
				at = "/"
			}
		}
	}
	return at
}

func (p *volumePath) touch(path string) { p.touched.Store(&path) }

// volume names the volume that is asked, by its mount point alone.
func (p *volumePath) volume() string {
	path := "/"
	if at := p.touched.Load(); at != nil {
		path = *at
	}
	return "the volume " + store.MountAbove(path).String()
}

// unwatched marks a command that has its own bounds for a volume that hangs.
const unwatched = "stoker.dev/unwatched"

// tellVolume tells the user of a volume that stopped answering, or answers again.
func (c *cli) tellVolume(what string, state volumeState, since time.Duration) {
	since = since.Round(time.Second)
	if c.logFormat == "json" {
		logger := c.logger(slog.LevelWarn).With("volume", strings.TrimPrefix(what, "the volume "), "seconds", since.Seconds())
		if state == volumeBack {
			logger.Warn("volume answers again")
		} else {
			logger.Warn("volume does not answer")
		}
		return
	}
	text := fmt.Sprintf("%s, has not answered for %s; Ctrl-C gives up", what, seconds(since))
	if state == volumeBack {
		text = fmt.Sprintf("%s, answers again after %s", what, seconds(since))
	}
	c.clearLine()
	fmt.Fprintf(c.stderr, "stoker: %s\n", text)
}

// seconds is a duration as a sentence has it: "5 s", "3m20s".
func seconds(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return d.String()
}
