package serving

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// What KEDA calls itself in a cluster.
const (
	kedaNamespace  = "keda"
	kedaOperator   = "keda-operator"
	kedaMetrics    = "keda-metrics-apiserver"
	kedaAPIService = "v1beta1.external.metrics.k8s.io"
)

// KEDA is a running operator and metrics server.
type KEDA struct {
	programs []*cluster.Program
	// Logs are the files that they write to.
	Logs []string
}

// StartKEDA runs the programs operator and adapter of binaries on a cluster, with
// an administrator's rights, and returns when the API server has external
// metrics from them. dir must be empty; it gets their keys and logs.
func StartKEDA(ctx context.Context, c *cluster.Cluster, binaries, dir string) (*KEDA, error) {
	k := &KEDA{}
	if err := k.start(ctx, c, binaries, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("start KEDA: %w", err), k.Stop())
	}
	return k, nil
}

func (k *KEDA) start(ctx context.Context, c *cluster.Cluster, binaries, dir string) error {
	definitions, err := charts.KEDACRDs(ctx)
	if err != nil {
		return err
	}
	if err := charts.ApplyCRDs(ctx, c.RESTConfig(), definitions); err != nil {
		return err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: kedaNamespace}}
	if _, err := c.Client().CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return err
	}
	service := kedaMetrics + "." + kedaNamespace + ".svc"
	if err := c.WriteKeys(dir, service, kedaOperator+"."+kedaNamespace+".svc"); err != nil {
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
	secure, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(secure)
	if err != nil {
		return err
	}
	env := []string{"KUBECONFIG=" + c.KubeconfigPath, "WATCH_NAMESPACE=", "POD_NAMESPACE=" + kedaNamespace, "KEDA_CLUSTER_OBJECT_NAMESPACE=" + kedaNamespace}
	if err := k.run(binaries, dir, "operator", env,
		"--cert-dir="+dir, "--metrics-bind-address=0", "--health-probe-bind-address="+health,
		"--metrics-service-bind-address="+grpc, "--zap-log-level=info"); err != nil {
		return err
	}
	if err := k.run(binaries, dir, "adapter", env,
		"--bind-address=127.0.0.1", "--secure-port="+port, "--cert-dir="+dir,
		"--client-ca-file="+filepath.Join(dir, "ca.crt"), "--tls-cert-file="+filepath.Join(dir, "tls.crt"), "--tls-private-key-file="+filepath.Join(dir, "tls.key"),
		"--authentication-kubeconfig="+c.KubeconfigPath, "--authorization-kubeconfig="+c.KubeconfigPath, "--lister-kubeconfig="+c.KubeconfigPath,
		"--metrics-service-address="+grpc, "--port=0"); err != nil {
		return err
	}
	return k.aggregate(ctx, c, dir, port)
}

func (k *KEDA) run(binaries, dir, name string, env []string, args ...string) error {
	log := filepath.Join(dir, name+".log")
	p, err := cluster.StartProgram(filepath.Join(binaries, name), log, args, env)
	if err != nil {
		return err
	}
	k.programs, k.Logs = append(k.programs, p), append(k.Logs, log)
	return nil
}

// aggregate has the API server ask the adapter. A Service of the kind
// ExternalName is one that it can reach without a kube-proxy.
func (k *KEDA) aggregate(ctx context.Context, c *cluster.Cluster, dir, port string) error {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return err
	}
	var number int64
	if _, err := fmt.Sscan(port, &number); err != nil {
		return err
	}
	service := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Service",
		"metadata": map[string]any{"name": kedaMetrics, "namespace": kedaNamespace},
		"spec":     map[string]any{"type": "ExternalName", "externalName": "localhost", "ports": []any{map[string]any{"port": number}}},
	}}
	api := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
		"metadata": map[string]any{"name": kedaAPIService},
		"spec": map[string]any{
			"group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": int64(100), "versionPriority": int64(100),
			"caBundle": base64.StdEncoding.EncodeToString(ca),
			"service":  map[string]any{"name": kedaMetrics, "namespace": kedaNamespace, "port": number},
		},
	}}
	if err := charts.Apply(ctx, c.RESTConfig(), []*unstructured.Unstructured{service, api}); err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	services := client.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	return cluster.WaitFor(ctx, "external metrics to be served", func(ctx context.Context) (bool, error) {
		for _, p := range k.programs {
			if err := p.Ended(); err != nil {
				return false, err
			}
		}
		got, err := services.Get(ctx, kedaAPIService, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return charts.Condition(got, "Available")
	})
}

// Stop ends both; it is an error if one had ended by itself.
func (k *KEDA) Stop() error {
	var errs []error
	for i := len(k.programs) - 1; i >= 0; i-- {
		errs = append(errs, k.programs[i].Stop())
	}
	return errors.Join(errs...)
}
