package charts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/test/cluster"
)

// Releases whose custom resources charts/vllm renders.
const (
	KEDAVersion               = "v2.21.0"
	PrometheusOperatorVersion = "v0.85.0"
	GatewayAPIVersion         = "v1.4.0"
	LeaderWorkerSetVersion    = "v0.9.0"
)

// KEDACRDs are KEDA's CustomResourceDefinitions, read from its Go module.
func KEDACRDs(ctx context.Context) ([]*unstructured.Unstructured, error) {
	return crds(ctx, "github.com/kedacore/keda/v2@"+KEDAVersion, "config/crd/bases/*keda.sh_*.yaml")
}

// PrometheusOperatorCRDs are those that charts/vllm uses of the Prometheus
// operator's, read from its Go module.
func PrometheusOperatorCRDs(ctx context.Context) ([]*unstructured.Unstructured, error) {
	return crds(ctx, "github.com/prometheus-operator/prometheus-operator@"+PrometheusOperatorVersion,
		"example/prometheus-operator-crd/monitoring.coreos.com_p*s.yaml")
}

// GatewayAPICRDs are the standard ones of the Gateway API that charts/vllm uses,
// read from its Go module.
func GatewayAPICRDs(ctx context.Context) ([]*unstructured.Unstructured, error) {
	return crds(ctx, "sigs.k8s.io/gateway-api@"+GatewayAPIVersion, "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml")
}

// LeaderWorkerSetCRDs are the LeaderWorkerSet's, read from its Go module.
func LeaderWorkerSetCRDs(ctx context.Context) ([]*unstructured.Unstructured, error) {
	return crds(ctx, "sigs.k8s.io/lws@"+LeaderWorkerSetVersion, "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml")
}

// crds reads files of a module, which Go downloads and verifies if its cache has
// it not. The test module does not depend on it: the files are all that is used.
func crds(ctx context.Context, module, pattern string) ([]*unstructured.Unstructured, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var found struct{ Dir, Error string }
	// What went wrong is in the JSON, too, and more to the point.
	if jsonErr := json.Unmarshal(out, &found); err != nil || jsonErr != nil {
		return nil, fmt.Errorf("download %s: %w: %s%s", module, errors.Join(err, jsonErr), found.Error, stderr.Bytes())
	}
	paths, err := filepath.Glob(filepath.Join(found.Dir, filepath.FromSlash(pattern)))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("find %s of %s: there are %d such files: %w", pattern, module, len(paths), err)
	}
	var objs []*unstructured.Unstructured
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the definitions of %s: %w", module, err)
		}
		decoded, err := decode(content)
		if err != nil {
			return nil, fmt.Errorf("decode %s: %w", path, err)
		}
		objs = append(objs, decoded...)
	}
	return objs, nil
}

// ApplyCRDs applies definitions, and returns when the API server serves what
// they define.
func ApplyCRDs(ctx context.Context, config *rest.Config, objs []*unstructured.Unstructured) error {
	if err := Apply(ctx, config, objs); err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for _, obj := range objs {
		err := cluster.WaitFor(ctx, obj.GetName()+" to be served", func(ctx context.Context) (bool, error) {
			got, err := definitions.Get(ctx, obj.GetName(), metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			return Condition(got, "Established")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Condition says whether an object's condition is true; where it is not, the
// error has its message.
func Condition(obj *unstructured.Unstructured, kind string) (bool, error) {
	conditions, _, err := unstructured.NestedSlice(obj.Object, "status", "conditions")
	if err != nil {
		return false, err
	}
	for _, condition := range conditions {
		fields, ok := condition.(map[string]any)
		if !ok || fields["type"] != kind {
			continue
		}
		if fields["status"] == "True" {
			return true, nil
		}
		return false, fmt.Errorf("%s is %v: %v", kind, fields["status"], fields["message"])
	}
	return false, fmt.Errorf("it has no condition %s", kind)
}
