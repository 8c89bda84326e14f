package main

import (
	"fmt"
	"log/slog"
	"runtime"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// clusterFlags say which cluster a command asks, as kubectl's do.
type clusterFlags struct{ kubeconfig, context string }

func (f *clusterFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "reach the API server as `FILE` says (default: KUBECONFIG, else ~/.kube/config, else the pod's account)")
	cmd.Flags().StringVar(&f.context, "context", "", "use the context `NAME` of the kubeconfig")
}

// config is what kubectl would use.
func (f *clusterFlags) config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: f.context}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, usage(fmt.Errorf("find the API server: there is no kubeconfig; give --kubeconfig, or set KUBECONFIG"))
	case err != nil:
		return nil, usage(fmt.Errorf("find the API server: %w; check --kubeconfig and --context, or KUBECONFIG", err))
	}
	return cfg, nil
}

// cluster is config for a command whose user waits: it logs warnings only.
func (c *cli) cluster(f *clusterFlags) (*rest.Config, error) {
	cfg, err := f.config()
	if err != nil {
		return nil, err
	}
	klog.SetSlogLogger(c.logger(slog.LevelWarn))
	return c.prepare(cfg), nil
}

// prepare hides what the API server is sent to know us by, also what will be read later,
// as a pod's token that is renewed, and names this program and the command that asks, for
// the API server's audit log.
func (c *cli) prepare(cfg *rest.Config) *rest.Config {
	c.secrets.Add(cfg.Password, cfg.BearerToken)
	cfg.Wrap(c.secrets.Transport)
	cfg.UserAgent = fmt.Sprintf("stoker/%s (%s/%s) %s", version, runtime.GOOS, runtime.GOARCH, c.command.Name())
	return cfg
}
