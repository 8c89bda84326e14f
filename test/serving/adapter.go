package serving

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/stoker-project/stoker/test/cluster"
)

// StartAdapter runs the Prometheus adapter on a cluster, with rules as in its
// configuration file, for HPAs on metrics of pods. dir must be empty; it gets its
// keys and log.
func StartAdapter(ctx context.Context, c *cluster.Cluster, binary, prometheus string, rules []byte, dir string) (*Programs, error) {
	p := &Programs{}
	if err := p.startAdapter(ctx, c, binary, prometheus, rules, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("start the Prometheus adapter: %w", err), p.Stop())
	}
	return p, nil
}

func (p *Programs) startAdapter(ctx context.Context, c *cluster.Cluster, binary, prometheus string, rules []byte, dir string) error {
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, rules, 0o600); err != nil {
		return err
	}
	a, err := newAPI(ctx, c, api{group: "custom.metrics.k8s.io", version: "v1beta1", namespace: "monitoring", service: "prometheus-adapter", dir: dir})
	if err != nil {
		return err
	}
	if err := p.run(binary, dir, nil, append(a.serving(c),
		"--lister-kubeconfig="+c.KubeconfigPath, "--prometheus-url="+prometheus, "--config="+config,
		// How often it looks which series there are, and how far back: by default every ten minutes, in which a new
		// model's metrics would not be found.
		"--metrics-relist-interval=5s", "--metrics-max-age=1m")...); err != nil {
		return err
	}
	return p.aggregate(ctx, c, a)
}
