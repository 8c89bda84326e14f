package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
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

// hideAccount hides what the API server is sent to know us by, also what will be
// read later, as a pod's token that is renewed.
func (c *cli) hideAccount(cfg *rest.Config) {
	c.secrets.Add(cfg.Password, cfg.BearerToken)
	cfg.Wrap(c.secrets.Transport)
}
