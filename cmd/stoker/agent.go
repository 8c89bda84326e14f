package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

type agentFlags struct {
	config, store, nodeName, gpus, listen, kubeconfig string
}

func (c *cli) agentCommand() *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{
		Use:   "agent --config FILE",
		Short: "Run the node agent: pull what the list says, and label this node with what is warm",
		Long: `Run the node agent, as the chart's DaemonSet does. FILE holds the model list and
the agent's settings, and is read again while the agent runs: a bad list never
replaces a good one.

The agent reads this machine's GPUs, keeps the store, and says on its Node what
is warm and how much GPU memory is free. It ends cleanly on SIGTERM; the labels
stay, because what they say stays true.`,
		Example: `  stoker agent --config /etc/stoker/config.yaml --store /models --node-name gpu-1
  stoker agent --config list.yaml --node-name dev --gpus simulated:dgxh200 --kubeconfig ~/.kube/config`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.agent(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", "", "the file with the model list and the settings (required)")
	storeFlag(cmd, &f.store)
	flags.StringVar(&f.nodeName, "node-name", os.Getenv("NODE_NAME"), "the name of this machine's Node; default from NODE_NAME")
	gpusFlag(cmd, &f.gpus)
	flags.StringVar(&f.listen, "listen", ":9808", "address of /metrics, /healthz and /readyz; empty: none")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "how to reach the API server; default: the pod's account, else KUBECONFIG")
	return cmd
}

func (c *cli) agent(cmd *cobra.Command, f agentFlags) (err error) {
	devices, gpusErr := openGPUs(f.gpus)
	if err := c.check(need("--config", f.config, "name the file with the model list"), need("--node-name", f.nodeName, "name this machine's Node, or set NODE_NAME"), gpusErr, checkStore(f.store)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, devices.Close()) }()
	logger := c.logger(slog.LevelInfo)
	klog.SetSlogLogger(logger)
	s, err := store.Open(f.store)
	if err != nil {
		return err
	}
	cfg, err := agent.LoadConfig(f.config, s.AgentFile(agent.LastGoodFile))
	if err != nil {
		return usage(err)
	}
	kube, err := kubeConfig(f.kubeconfig)
	if err != nil {
		return usage(fmt.Errorf("reach the API server: %w; run in a pod or give --kubeconfig", err))
	}
	admission := agent.NewAdmission(s.Usage, cfg.Store)
	puller := fetcher.New(fetcher.Options{
		Store: s, Drivers: drivers(), Logger: logger, Jobs: cfg.Pull.Jobs, MaxRate: cfg.Pull.MaxRate, Admit: admission.Admit,
	})
	a, err := agent.New(agent.Options{
		Config: cfg, ConfigPath: f.config, NodeName: f.nodeName, Version: version, Listen: f.listen, Kube: kube,
		Store: s, Puller: puller, Admission: admission, Devices: devices, Logger: logger,
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

// kubeConfig is the given file, or the pod's own account, or what kubectl
// would use.
func kubeConfig(file string) (*rest.Config, error) {
	if file == "" {
		if cfg, err := rest.InClusterConfig(); err == nil {
			return cfg, nil
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = file
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
}
