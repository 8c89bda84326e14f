package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// agentGCPercent is how much an agent's heap may grow before garbage is
// collected, in percent of what is in use.
const agentGCPercent = 50

type agentFlags struct {
	config, store, nodeName, release, gpus, listen, kubeconfig, selinuxLabel string
}

func (c *cli) agentCommand() *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{
		Use:   "agent --config FILE",
		Short: "Run the node agent: pull what the list says, and label this node with what is warm",
		Long: `Run the agent of one node, as the chart's DaemonSet does. It reads this machine's
GPUs, pulls the models that the list wants here, and says on its Node what is
warm and how much GPU memory is free.

FILE is YAML with the model list and the agent's settings. It is read again
while the agent runs; a bad list never replaces a good one.

The agent ends in good order on SIGTERM. Its labels stay, because what they say
stays true.

Exit codes: 0 ended by a signal, 1 failed, 2 wrong usage or configuration.`,
		Example: `  stoker agent --config /etc/stoker/config.yaml --store /models --node-name gpu-1
  stoker agent --config list.yaml --node-name dev --gpus simulated:dgxh200`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.agent(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", "", "read the model list and the settings from `FILE` (required)")
	storeFlag(cmd, &f.store)
	flags.Lookup("store").Annotations = map[string][]string{unwatched: {}}
	flags.StringVar(&f.nodeName, "node-name", os.Getenv("NODE_NAME"), "this machine's Node is called `NAME`; NODE_NAME sets the default")
	flags.StringVar(&f.release, "release", "", "the agent is of the Helm release `NAMESPACE/NAME`; uninstalling that removes what it wrote on the Node")
	gpusFlag(cmd, &f.gpus)
	flags.StringVar(&f.listen, "listen", ":9808", "serve /metrics, /healthz and /readyz on `ADDRESS`; empty for none")
	flags.StringVar(&f.selinuxLabel, "selinux-label", "", "give the store this SELinux `LABEL`, so that pods may read it; empty leaves it alone")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "reach the API server as `FILE` says (default: the pod's account, else KUBECONFIG)")
	return cmd
}

func (c *cli) agent(cmd *cobra.Command, f agentFlags) (err error) {
	devices, gpusErr := openGPUs(f.gpus)
	_, releaseErr := parseRelease(f.release)
	if err := c.check(need("--config", f.config, "name the file with the model list"), need("--node-name", f.nodeName, "name this machine's Node, or set NODE_NAME"), gpusErr, need("--store", f.store, "name a directory, or set STOKER_STORE"), releaseErr); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, devices.Close()) }()
	if os.Getenv("GOGC") == "" {
		// It idles on every node: memory counts more than the little that it
		// computes.
		debug.SetGCPercent(agentGCPercent)
	}
	logger := c.logger(slog.LevelInfo)
	klog.SetSlogLogger(logger)
	cfg, err := loadConfig(cmd.Context(), f.config, f.store)
	if err != nil {
		return err
	}
	s, labelled, err := openForAgent(cmd.Context(), f.store, cfg.Volume.Mode, f.selinuxLabel, logger)
	if err != nil {
		return err
	}
	kube, err := c.kubeConfig(f.kubeconfig)
	if err != nil {
		return usage(fmt.Errorf("reach the API server: %w; run in a pod or give --kubeconfig", err))
	}
	admission := agent.NewAdmission(s.Usage, cfg.Store)
	puller := fetcher.New(fetcher.Options{
		Store: s, Secrets: c.secrets, Drivers: drivers(c.secrets), Logger: logger, Jobs: cfg.Pull.Jobs, MaxRate: cfg.Pull.MaxRate, Admit: admission.Admit,
		Patience: pullPatience, Yield: true,
	})
	a, err := agent.New(agent.Options{
		Config: cfg, ConfigPath: f.config, NodeName: f.nodeName, PodUID: os.Getenv("POD_UID"), Version: version, Release: f.release, Namespace: podNamespace(f.release), Listen: f.listen, Kube: kube,
		Store: labelled, Puller: puller, Admission: admission, Devices: devices, Logger: logger, Secrets: c.secrets,
	})
	if err != nil {
		return err
	}
	return a.Run(cmd.Context())
}

func need(flag, value, hint string) error {
	if value == "" {
		return fmt.Errorf("%s is missing; %s", flag, hint)
	}
	return nil
}

// pullPatience is how long a request that fails may hold one of the node's few places
// for pulls. After that the agent itself tries again, when other models had theirs.
const pullPatience = time.Minute

// kubeConfig is the given file, or the pod's own account, or what kubectl
// would use.
func (c *cli) kubeConfig(file string) (*rest.Config, error) {
	if file == "" {
		if cfg, err := rest.InClusterConfig(); err == nil {
			return c.prepare(cfg), nil
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = file
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	return c.prepare(cfg), nil
}

// namespaceFile is where every pod with a token of its account finds its namespace
// (https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/).
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// podNamespace is where this pod runs, and outside of pods the release's; empty: neither
// is known.
func podNamespace(release string) string {
	if data, err := smallfile.Read(namespaceFile, 1<<10); err == nil {
		return strings.TrimSpace(string(data))
	}
	namespace, _, _ := strings.Cut(release, "/")
	return namespace
}
