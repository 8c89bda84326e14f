package serving

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// Programs are what one part of a cluster consists of, run as processes beside
// the control plane with an administrator's rights.
type Programs struct {
	running []*cluster.Program
	// Logs are the files that they write to.
	Logs []string
}

// run starts one more; its log is in dir, under the program's name.
func (p *Programs) run(binary, dir string, env []string, args ...string) error {
	log := filepath.Join(dir, filepath.Base(binary)+".log")
	program, err := cluster.StartProgram(binary, log, args, env)
	if err != nil {
		return err
	}
	p.running, p.Logs = append(p.running, program), append(p.Logs, log)
	return nil
}

// Stop ends all; it is an error if one had ended by itself.
func (p *Programs) Stop() error {
	var errs []error
	for i := len(p.running) - 1; i >= 0; i-- {
		errs = append(errs, p.running[i].Stop())
	}
	return errors.Join(errs...)
}

// api is a group of APIs that a program serves on loopback, and under which
// Service the API server finds it.
type api struct {
	group, version     string
	namespace, service string
	address            string
	// dir has the program's keys.
	dir string
}

// newAPI makes the Service's namespace, finds the program a port, and writes its
// keys into dir, for its own name and further ones.
func newAPI(ctx context.Context, c *cluster.Cluster, a api, further ...string) (api, error) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.namespace}}
	if _, err := c.Client().CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return api{}, err
	}
	if err := c.WriteKeys(a.dir, append([]string{a.service + "." + a.namespace + ".svc"}, further...)...); err != nil {
		return api{}, err
	}
	var err error
	a.address, err = freeAddress(ctx)
	return a, err
}

// serving are the flags of every server made with Kubernetes' library for them.
func (a api) serving(c *cluster.Cluster) []string {
	_, port, _ := net.SplitHostPort(a.address)
	return []string{
		"--bind-address=127.0.0.1", "--secure-port=" + port, "--cert-dir=" + a.dir,
		"--client-ca-file=" + filepath.Join(a.dir, "ca.crt"),
		"--tls-cert-file=" + filepath.Join(a.dir, "tls.crt"), "--tls-private-key-file=" + filepath.Join(a.dir, "tls.key"),
		"--authentication-kubeconfig=" + c.KubeconfigPath, "--authorization-kubeconfig=" + c.KubeconfigPath,
	}
}

// aggregate has the API server ask the program, and waits until it does so with
// success. A Service of the kind ExternalName is one that it can reach without a
// kube-proxy.
func (p *Programs) aggregate(ctx context.Context, c *cluster.Cluster, a api) error {
	ca, err := os.ReadFile(filepath.Join(a.dir, "ca.crt"))
	if err != nil {
		return err
	}
	_, text, err := net.SplitHostPort(a.address)
	if err != nil {
		return err
	}
	port, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return err
	}
	service := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Service",
		"metadata": map[string]any{"name": a.service, "namespace": a.namespace},
		"spec":     map[string]any{"type": "ExternalName", "externalName": "localhost", "ports": []any{map[string]any{"port": port}}},
	}}
	name := a.version + "." + a.group
	registered := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
		"metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"group": a.group, "version": a.version, "groupPriorityMinimum": int64(100), "versionPriority": int64(100),
			"caBundle": base64.StdEncoding.EncodeToString(ca),
			"service":  map[string]any{"name": a.service, "namespace": a.namespace, "port": port},
		},
	}}
	if err := charts.Apply(ctx, c.RESTConfig(), []*unstructured.Unstructured{service, registered}); err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	services := client.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	return cluster.WaitFor(ctx, fmt.Sprintf("%s to be served", name), func(ctx context.Context) (bool, error) {
		for _, program := range p.running {
			if err := program.Ended(); err != nil {
				return false, err
			}
		}
		got, err := services.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return charts.Condition(got, "Available")
	})
}
