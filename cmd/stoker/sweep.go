package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/stoker-project/stoker/agent/sweep"
)

type sweepFlags struct {
	namespace, selector, release, listen, kubeconfig string

	volumes []string

	agentTimeout time.Duration
}

func (c *cli) sweepCommand() *cobra.Command {
	var f sweepFlags
	cmd := &cobra.Command{
		Use:   "sweep --namespace NAMESPACE --selector LABELS",
		Short: "Run the sweeper: take back the labels of nodes that have no agent any more",
		Long: `Watch the agents' pods, as the chart's sweeper does. A node that has had no ready
agent pod for --agent-timeout loses the labels and the annotation that agents
write, and nothing else; an agent that returns writes them again.

Each node is looked at once more before, and left alone if anything wrote to it
since, or if the annotation names another Helm release than --release: that one's
agents are not among the pods. While the API server does not answer nothing is
removed, and afterwards every clock starts again. Where more than half of the
labelled nodes have no agent, or no agent was ever seen, labels go slowly (a
fiftieth a minute, at least one) and an event on a node says so.

A --volume that was bound by a claim which was deleted may be bound by a claim of
that name again. One that no claim binds, or that is gone, gets an event with what
to do.

Exit codes: 0 ended by a signal, 1 failed, 2 wrong usage or configuration.`,
		Example: `  stoker sweep --namespace stoker-system --selector app.kubernetes.io/name=stoker`,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.sweep(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "the agents' pods are in `NAMESPACE`; POD_NAMESPACE sets the default")
	flags.StringVar(&f.selector, "selector", "", "the agents' pods, and no others, have these `LABELS`: NAME=VALUE,... (required)")
	flags.DurationVar(&f.agentTimeout, "agent-timeout", sweep.DefaultAgentTimeout, "a node without a ready agent keeps its labels for this `TIME`")
	flags.StringArrayVar(&f.volumes, "volume", nil, "keep the PersistentVolume `NAME=NAMESPACE/CLAIM` free for that claim; may be given again")
	flags.StringVar(&f.release, "release", "", "leave nodes to other Helm releases than `NAMESPACE/NAME`, which events about volumes name")
	flags.StringVar(&f.listen, "listen", ":9808", "serve /metrics, /healthz and /readyz on `ADDRESS`; empty for none")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "reach the API server as `FILE` says (default: the pod's account, else KUBECONFIG)")
	return cmd
}

func (c *cli) sweep(cmd *cobra.Command, f sweepFlags) error {
	selectorErr := need("--selector", f.selector, "give the labels of the agents' pods")
	if _, err := labels.Parse(f.selector); err != nil {
		selectorErr = fmt.Errorf("--selector %q cannot be used: %w", f.selector, err)
	}
	var timeoutErr error
	if f.agentTimeout <= 0 {
		timeoutErr = fmt.Errorf("--agent-timeout %s is not positive", f.agentTimeout)
	}
	namespaceErr := need("--namespace", f.namespace, "name the namespace of the agents' pods, or set POD_NAMESPACE")
	var volumes []sweep.Volume
	var volumesErr error
	for _, text := range f.volumes {
		v, err := sweep.ParseVolume(text)
		if err != nil {
			volumesErr = errors.Join(volumesErr, fmt.Errorf("--volume: %w", err))
		}
		volumes = append(volumes, v)
	}
	release, releaseErr := parseRelease(f.release)
	if err := c.check(namespaceErr, selectorErr, timeoutErr, volumesErr, releaseErr); err != nil {
		return err
	}
	logger := c.logger(slog.LevelInfo)
	klog.SetSlogLogger(logger)
	kube, err := c.kubeConfig(f.kubeconfig)
	if err != nil {
		return usage(fmt.Errorf("reach the API server: %w; run in a pod or give --kubeconfig", err))
	}
	manyRequests(kube)
	s, err := sweep.New(sweep.Options{
		Namespace: f.namespace, Selector: f.selector, Volumes: volumes, Release: release, AgentTimeout: f.agentTimeout, Listen: f.listen, Kube: kube, Logger: logger,
	})
	if err != nil {
		return err
	}
	return s.Run(cmd.Context())
}

// manyRequests is for commands that work on many nodes: with the default of 5
// requests a second, a large cluster would take them an hour.
func manyRequests(kube *rest.Config) { kube.QPS, kube.Burst = 50, 100 }
