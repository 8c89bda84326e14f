package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/test/cluster"
)

// agentProcess is a real `stoker agent` that stands for the container of one
// pod of the DaemonSet.
type agentProcess struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the process has ended
}

// startAgents runs one agent for each pod that the DaemonSet controller made
// and the scheduler bound, each with that pod's own token.
func (d *demo) startAgents(ctx context.Context) error {
	d.say("starting one agent per node, in place of the DaemonSet's pods, under the chart's own RBAC")
	pods, err := d.daemonSetPods(ctx)
	if err != nil {
		return err
	}
	for _, m := range machines() {
		pod := pods[m.name]
		kubeconfig, err := d.cluster.AgentKubeconfig(ctx, cluster.AgentPod{
			Namespace: systemNamespace, ServiceAccount: pod.Spec.ServiceAccountName, Node: m.name, Pod: pod.Name,
		})
		if err != nil {
			return err
		}
		if err := d.startAgent(m, kubeconfig); err != nil {
			return fmt.Errorf("start the agent of %s: %w", m.name, err)
		}
	}
	return nil
}

// daemonSetPods waits until every Node has its pod.
func (d *demo) daemonSetPods(ctx context.Context) (map[string]corev1.Pod, error) {
	pods := map[string]corev1.Pod{}
	err := cluster.WaitFor(ctx, "the DaemonSet's pods to be bound to the Nodes", func(ctx context.Context) (bool, error) {
		list, err := d.cluster.Client().CoreV1().Pods(systemNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, p := range list.Items {
			// The sweeper's pod is there as well, and has other rights.
			if owner := metav1.GetControllerOf(&p); owner != nil && owner.Kind == "DaemonSet" && p.Spec.NodeName != "" {
				pods[p.Spec.NodeName] = p
			}
		}
		return len(pods) == len(machines()), nil
	})
	return pods, err
}

func (d *demo) startAgent(m machine, kubeconfig string) error {
	dir := filepath.Join(d.dir, "nodes", m.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	logPath := filepath.Join(dir, "agent.log")
	logFile, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer logFile.Close()
	// Not bound to a context: an agent ends by SIGTERM, as a kubelet would
	// have it, and by Pdeathsig if the demo itself dies.
	cmd := exec.Command(d.stoker, "agent", "--config", d.configPath(), "--store", d.storePath(m.name), //nolint:noctx // see above
		"--node-name", m.name, "--gpus", m.gpus, "--kubeconfig", kubeconfig, "--listen", "")
	cmd.Env = append(os.Environ(), "HF_ENDPOINT="+d.hub.URL(), "HF_TOKEN=", "HF_TOKEN_PATH=", "HF_HUB_DISABLE_IMPLICIT_TOKEN=1")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = tied()
	if err := cmd.Start(); err != nil {
		return err
	}
	a := &agentProcess{cmd: cmd, log: logPath, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		_ = cmd.Wait() // how it ended stands in its log
	}()
	d.agents[m.name] = a
	fmt.Fprintf(d.out, "    %s  stoker agent --node-name %s --gpus %s  (pid %d)\n", m.name, m.name, m.gpus, cmd.Process.Pid)
	return nil
}

// checkAgents fails if an agent has ended that nobody stopped.
func (d *demo) checkAgents() error {
	for name, a := range d.agents {
		select {
		case <-a.done:
			text, err := os.ReadFile(a.log)
			return errors.Join(fmt.Errorf("the agent of %s ended; the end of its log:\n%s", name, tail(string(text), 20)), err)
		default:
		}
	}
	return nil
}

// agentGrace is how long an agent may take to end before it is killed.
const agentGrace = 10 * time.Second

func (d *demo) stopAgents() error {
	var errs []error
	for name, a := range d.agents {
		select {
		case <-a.done:
			continue
		default:
		}
		if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("stop the agent of %s: %w", name, err))
		}
	}
	for name, a := range d.agents {
		select {
		case <-a.done:
		case <-time.After(agentGrace):
			errs = append(errs, fmt.Errorf("the agent of %s did not end within %s and was killed", name, agentGrace), a.cmd.Process.Kill())
			<-a.done
		}
	}
	return errors.Join(errs...)
}

// killAgent kills one agent without warning: its labels are true and stay, and
// the next pod still lands warm.
func (d *demo) killAgent(ctx context.Context) error {
	const victim = "gpu-1"
	d.say("killing the agent of %s (kill -9), then asking for one replica more", victim)
	a := d.agents[victim]
	if err := a.cmd.Process.Kill(); err != nil {
		return err
	}
	<-a.done
	delete(d.agents, victim)
	if err := d.scale(ctx, replicas+1); err != nil {
		return err
	}
	return d.showPlacement(ctx, replicas+1)
}
