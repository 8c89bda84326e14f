package serving

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// What KEDA calls itself in a cluster.
const (
	kedaNamespace = "keda"
	kedaOperator  = "keda-operator"
	kedaMetrics   = "keda-metrics-apiserver"
)

// StartKEDA runs the programs operator and adapter of binaries on a cluster and
// returns when the API server has external metrics from them. dir must be empty;
// it gets their keys and logs.
func StartKEDA(ctx context.Context, c *cluster.Cluster, binaries, dir string) (*Programs, error) {
	p := &Programs{}
	if err := p.startKEDA(ctx, c, binaries, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("start KEDA: %w", err), p.Stop())
	}
	return p, nil
}

func (p *Programs) startKEDA(ctx context.Context, c *cluster.Cluster, binaries, dir string) error {
	definitions, err := charts.KEDACRDs(ctx)
	if err != nil {
		return err
	}
	if err := charts.ApplyCRDs(ctx, c.RESTConfig(), definitions); err != nil {
		return err
	}
	a, err := newAPI(ctx, c, api{
		group: "external.metrics.k8s.io", version: "v1beta1", namespace: kedaNamespace, service: kedaMetrics, dir: dir,
	}, kedaOperator+"."+kedaNamespace+".svc")
	if err != nil {
		return err
	}
	grpc, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	health, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	env := []string{"KUBECONFIG=" + c.KubeconfigPath, "WATCH_NAMESPACE=", "POD_NAMESPACE=" + kedaNamespace, "KEDA_CLUSTER_OBJECT_NAMESPACE=" + kedaNamespace}
	if err := p.run(filepath.Join(binaries, "operator"), dir, env,
		"--cert-dir="+dir, "--metrics-bind-address=0", "--health-probe-bind-address="+health,
		"--metrics-service-bind-address="+grpc, "--zap-log-level=info"); err != nil {
		return err
	}
	if err := p.run(filepath.Join(binaries, "adapter"), dir, env, append(a.serving(c),
		"--lister-kubeconfig="+c.KubeconfigPath, "--metrics-service-address="+grpc, "--port=0")...); err != nil {
		return err
	}
	return p.aggregate(ctx, c, a)
}
