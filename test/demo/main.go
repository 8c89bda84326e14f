// Command demo shows Stoker's whole job on one machine, without a cluster, a
// GPU, root or a network: a real control plane, a Hub stand-in with generated
// models, one agent per Node object with a simulated board each, and vLLM-shaped
// pods that the real scheduler binds by the labels that the agents wrote.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err == nil:
	case interrupted && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "demo: interrupted; everything was stopped and removed")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is what the steps share.
type demo struct {
	out     io.Writer
	dir     string
	stoker  string
	keep    bool
	cluster *cluster.Cluster
	hub     *fetchertest.Hub
	agents  map[string]*agentProcess
	began   time.Time
}

// limit bounds a whole run, but for building the control plane before it.
const limit = 5 * time.Minute

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	stoker := flags.String("stoker", "bin/stoker", "the stoker binary")
	keep := flags.Bool("keep", os.Getenv("KEEP") == "1", "leave everything up at the end, until Ctrl-C (also KEEP=1)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	d := &demo{out: out, keep: *keep, agents: map[string]*agentProcess{}}
	if d.stoker, err = filepath.Abs(*stoker); err != nil {
		return err
	}
	binary, err := cluster.Binary(ctx, out)
	if err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "stoker-demo-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeAll(d.dir)) }()
	d.began = time.Now()
	short, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	hubCtx, stopHub := context.WithCancel(ctx)
	hubDone := make(chan error, 1)
	d.hub = fetchertest.NewHub(fetchertest.HubOptions{})
	if err := d.hub.Listen(hubCtx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		stopHub()
		return err
	}
	go func() { hubDone <- d.hub.Serve(hubCtx) }()
	defer func() { stopHub(); err = errors.Join(err, <-hubDone) }()

	d.say("starting etcd, kube-apiserver, kube-controller-manager and kube-scheduler (v1.37)")
	if d.cluster, err = cluster.Start(short, cluster.Options{Dir: filepath.Join(d.dir, "cluster"), Binary: binary}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cluster.Stop()) }()
	defer func() { err = errors.Join(err, d.stopAgents()) }()

	steps := []func(context.Context) error{
		d.publishModels, d.addNodes, d.installChart, d.startAgents, d.watchPulls, d.showWarmth,
		d.verifyStores, d.deploy, d.showStatus, d.killAgent,
	}
	for _, step := range steps {
		if err := step(short); err != nil {
			return err
		}
	}
	d.say("done in %s", time.Since(d.began).Round(time.Second))
	if d.keep {
		return d.stayUp(ctx)
	}
	return nil
}

// say prints one step's headline.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "\n==> [%4.1fs] %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// stayUp leaves everything running for somebody who wants to look around.
func (d *demo) stayUp(ctx context.Context) error {
	d.say("left up until Ctrl-C")
	fmt.Fprintf(d.out, "    export KUBECONFIG=%s\n    kubectl get nodes -L warm.stoker.dev/%s -L fits.stoker.dev/%s\n    the nodes' stores and the agents' logs: %s\n",
		d.cluster.KubeconfigPath, bigModel, bigModel, d.dir)
	<-ctx.Done()
	fmt.Fprintln(d.out, "\nstopping")
	return nil
}

// removeAll removes a tree whose files may be read-only.
func removeAll(dir string) error { return os.RemoveAll(dir) }
