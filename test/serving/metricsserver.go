package serving

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/stoker-project/stoker/test/cluster"
)

// StartMetricsServer runs metrics-server on a cluster, for HPAs on CPU. It asks
// kubelets at the Nodes' addresses, which are to be loopback, at the port of
// kubelet. dir must be empty; it gets its keys and log.
func StartMetricsServer(ctx context.Context, c *cluster.Cluster, binary, kubelet, dir string) (*Programs, error) {
	p := &Programs{}
	if err := p.startMetricsServer(ctx, c, binary, kubelet, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("start metrics-server: %w", err), p.Stop())
	}
	return p, nil
}

func (p *Programs) startMetricsServer(ctx context.Context, c *cluster.Cluster, binary, kubelet, dir string) error {
	_, port, err := net.SplitHostPort(kubelet)
	if err != nil {
		return err
	}
	a, err := newAPI(ctx, c, api{group: "metrics.k8s.io", version: "v1beta1", namespace: "kube-system", service: "metrics-server", dir: dir})
	if err != nil {
		return err
	}
	if err := p.run(binary, dir, nil, append(a.serving(c),
		"--kubeconfig="+c.KubeconfigPath, "--kubelet-port="+port, "--kubelet-insecure-tls", "--kubelet-preferred-address-types=InternalIP",
		// The shortest that it takes, and a limit for one look that is to be shorter.
		"--metric-resolution=10s", "--kubelet-request-timeout=5s")...); err != nil {
		return err
	}
	return p.aggregate(ctx, c, a)
}
