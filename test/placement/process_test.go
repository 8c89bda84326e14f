package placement

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/daemon"
)

// system and account are where the chart's agents live.
const (
	system  = "stoker-system"
	account = "rel-stoker"
)

// podUser is whom the init container runs as, where this test may choose.
const podUser = 65532

// build makes the real binary, where every user may run it.
func (f *fixture) build() {
	f.Helper()
	var err error
	if f.binary, err = daemon.Build(f.Context(), f.dir()); err != nil {
		f.Fatal(err)
	}
}

// dir is a directory that every user may enter.
func (f *fixture) dir() string {
	f.Helper()
	dir := f.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			f.Fatal(err)
		}
	}
	return dir
}

// machine is a Node with the real binary as its agent.
type machine struct {
	*fixture
	node, store string
	log         *daemon.Log
	process     *daemon.Process
	// signal asks the agent to end; the test waits for that in the end.
	signal func()
}

// startAgent runs an agent with the chart's rights, by the given configuration.
func (f *fixture) startAgent(node, config string) *machine {
	f.Helper()
	dir := f.dir()
	m := &machine{fixture: f, node: node, store: filepath.Join(dir, "store"), log: &daemon.Log{}}
	spec := cluster.NodeSpec{Name: node, GPUs: perNode, CPU: "96", Memory: "1Ti", Labels: map[string]string{poolLabel: node}}
	if _, err := f.cluster.AddNode(f.Context(), spec); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		f.Fatal(err)
	}
	kubeconfig, err := f.cluster.AgentKubeconfig(f.Context(), cluster.AgentPod{Namespace: system, ServiceAccount: account, Node: node, Pod: "agent-" + node})
	if err != nil {
		f.Fatal(err)
	}
	m.process, err = daemon.Start(daemon.Options{Binary: f.binary, Config: path, Store: m.store, Node: node, Kubeconfig: kubeconfig, Log: m.log})
	if err != nil {
		f.Fatal(err)
	}
	m.signal = sync.OnceFunc(func() { m.process.Signal(syscall.SIGTERM) })
	f.Cleanup(func() {
		m.signal()
		<-m.process.Done()
		if err := m.process.Err(); err != nil {
			f.Errorf("agent of %s: %v", node, err)
		}
		if f.Failed() {
			f.Logf("the log of the agent of %s:\n%s", node, m.log.String())
		}
	})
	return m
}

// waiter is a pod's init container.
type waiter struct {
	args     []string
	pin      string
	out, err *daemon.Log
	// ended gets the exit code.
	ended chan int
}

// runInit runs what the pod's first init container would run, on the machine's
// store, which the user that it runs as cannot write to.
func (m *machine) runInit(args []string) *waiter {
	m.Helper()
	w := &waiter{pin: m.dir(), out: &daemon.Log{}, err: &daemon.Log{}, ended: make(chan int, 1)}
	if err := os.Chmod(w.pin, 0o777); err != nil { // as an emptyDir is
		m.Fatal(err)
	}
	for _, arg := range args {
		arg = strings.Replace(arg, "--store="+inject.StorePath, "--store="+m.store, 1)
		w.args = append(w.args, strings.Replace(arg, "--pin="+inject.PinPath, "--pin="+w.pin, 1))
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.Context()))
	cmd := exec.CommandContext(ctx, m.binary, w.args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = w.out, w.err
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: podUser, Gid: podUser}}
	}
	if err := cmd.Start(); err != nil {
		cancel()
		m.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := cmd.Wait()
		code := 0
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err != nil {
			code = -1
		}
		w.ended <- code
	}()
	m.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// finish waits until the init container has ended, and returns its exit code.
func (m *machine) finish(w *waiter) int {
	m.Helper()
	code := -1
	err := cluster.WaitFor(m.Context(), "the init container to end: "+strings.Join(w.args, " "), func(context.Context) (bool, error) {
		select {
		case code = <-w.ended:
			return true, nil
		default:
			return false, fmt.Errorf("it says:\n%s", w.err.String())
		}
	})
	if err != nil {
		m.Fatal(err)
	}
	return code
}

// writes reads the agent's own count of its writes to the API server, tried or
// done, by object.
func (m *machine) writes() map[string]int {
	m.Helper()
	page, err := m.process.Get(m.Context(), "/metrics")
	if err != nil {
		m.Fatal(err)
	}
	out := map[string]int{}
	for _, line := range regexp.MustCompile(`(?m)^stoker_api_writes_total\{object="(\w+)",result="\w+"\} (\d+)$`).FindAllStringSubmatch(page, -1) {
		n, err := strconv.Atoi(line[2])
		if err != nil {
			m.Fatal(err)
		}
		out[line[1]] += n
	}
	return out
}
