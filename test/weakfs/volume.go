package weakfs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"
)

// Options of a volume.
type Options struct {
	// Dir is what all mounts show, Mounts are the folders where it is mounted.
	Dir    string
	Mounts []string
	// Cached is for how long a mount believes what it has seen.
	Cached time.Duration
	// Judged are the folders, below the volume, of which changes are told; nil: none.
	Judged []string
	// Before is called before a change of a name there, which waits; After when it
	// was made. One call at a time, in the order of the changes.
	Before, After func(Change)
}

// Volume is a served one.
type Volume struct {
	o     Options
	stdin io.WriteCloser
	ended chan struct{}
	err   error // why serving ended; valid once ended is closed

	mu   sync.Mutex // one command at a time
	done chan struct{}
}

// Start serves a volume in a process of its own, which ends with this one. Its
// mounts are there when it returns.
func Start(o Options) (*Volume, error) {
	text, err := json.Marshal(settings{Dir: o.Dir, Mounts: o.Mounts, Cached: o.Cached, Judged: o.Judged})
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it lives until Close
	cmd.Env = append(os.Environ(), served+"="+string(text))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	v := &Volume{o: o, ended: make(chan struct{}), done: make(chan struct{}, 1)}
	if v.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	ready := make(chan error, 1)
	go func() {
		defer close(v.ended)
		v.err = ordeal.RunTied(cmd, func() { v.listen(stdout, ready) })
		ready <- v.err
	}()
	return v, <-ready
}

// listen reads what the process says until it ends.
func (v *Volume) listen(from io.Reader, ready chan<- error) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			ready <- fmt.Errorf("%w: %s", err, lines.Text())
			return
		}
		switch {
		case m.Err != "":
			ready <- errors.New(m.Err)
			return
		case m.Ready:
			ready <- nil
			ready = make(chan error, 1)
		case m.Done:
			v.done <- struct{}{}
		case m.Before != nil:
			v.o.Before(*m.Before)
			_ = v.send(command{Answer: true}) // it may have ended
		case m.After != nil:
			v.o.After(*m.After)
		}
	}
}

func (v *Volume) send(c command) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	_, err = v.stdin.Write(append(text, '\n'))
	return err
}

func (v *Volume) command(c command) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.send(c); err != nil {
		return err
	}
	select {
	case <-v.done:
		return nil
	case <-v.ended:
		return fmt.Errorf("the volume is not served any more: %w", v.err)
	}
}

// Set has a mount fail from now on, or not any more. Left is for Full.
func (v *Volume) Set(mount int, mode Mode, left int64) error {
	return v.command(command{Mount: mount, Mode: mode, Left: left})
}

// GiveUp fails what hangs in a mount now, so that a process that was killed ends.
func (v *Volume) GiveUp(mount int) error { return v.command(command{Mount: mount, GiveUp: true}) }

// Close unmounts. Nobody may use the mounts any more.
func (v *Volume) Close() error {
	err := v.stdin.Close()
	<-v.ended
	return errors.Join(err, v.err)
}
