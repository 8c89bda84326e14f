package charts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// notesFile is what Helm prints after an installation; it is no manifest.
const notesFile = "NOTES.txt"

// kubernetesVersion is that of the test cluster.
const kubernetesVersion = "v1.37.0"

// Charts of this repository.
const (
	Stoker = "stoker"
	VLLM   = "vllm"
)

// Release is what Helm is told when it installs a chart.
type Release struct {
	// Chart is Stoker or VLLM.
	Chart string
	// Name and Namespace are the release's.
	Name, Namespace string
	// Values are YAML; nil for the defaults.
	Values []byte
	// KubeVersion is the version of Kubernetes that templates see, as in
	// v1.36.0. Empty: that of the tests' cluster.
	KubeVersion string
	// Umbrella installs the chart as the dependency of another one, with the
	// condition CHART.enabled. Values are still the chart's own.
	Umbrella bool
}

// Render gives the objects of charts/stoker for the values (YAML; nil for the
// defaults), in the order in which Helm would install them into the cluster of
// the tests. Values that the chart's schema or its templates refuse are errors
// that name the field.
func Render(valuesYAML []byte, releaseName, namespace string) ([]*unstructured.Unstructured, error) {
	return Release{Chart: Stoker, Name: releaseName, Namespace: namespace, Values: valuesYAML}.Objects()
}

// Objects gives what Helm would install, in its order, less hooks: they belong
// to a release's life, which is not had here.
func (r Release) Objects() ([]*unstructured.Unstructured, error) {
	_, manifests, err := r.sorted()
	if err != nil {
		return nil, err
	}
	var objs []*unstructured.Unstructured
	for _, m := range manifests {
		decoded, err := decode([]byte(m.Content))
		if err != nil {
			return nil, fmt.Errorf("decode %s: %w", m.Name, err)
		}
		objs = append(objs, decoded...)
	}
	return objs, nil
}

// Template gives what `helm template` prints: everything that Helm would install,
// and after that the objects of hooks.
func (r Release) Template() ([]*unstructured.Unstructured, error) {
	objs, err := r.Objects()
	if err != nil {
		return nil, err
	}
	hooks, _, err := r.sorted()
	if err != nil {
		return nil, err
	}
	for _, h := range hooks {
		decoded, err := decode([]byte(h.Manifest))
		if err != nil {
			return nil, fmt.Errorf("decode %s: %w", h.Path, err)
		}
		objs = append(objs, decoded...)
	}
	return objs, nil
}

// PostDeleteHooks gives the objects that Helm would create after uninstalling
// charts/stoker, in its order.
func PostDeleteHooks(valuesYAML []byte, releaseName, namespace string) ([]*unstructured.Unstructured, error) {
	hooks, _, err := Release{Chart: Stoker, Name: releaseName, Namespace: namespace, Values: valuesYAML}.sorted()
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(hooks, func(a, b *release.Hook) int { return a.Weight - b.Weight })
	var objs []*unstructured.Unstructured
	for _, h := range hooks {
		if !slices.Contains(h.Events, release.HookPostDelete) {
			continue
		}
		decoded, err := decode([]byte(h.Manifest))
		if err != nil {
			return nil, fmt.Errorf("decode %s: %w", h.Path, err)
		}
		objs = append(objs, decoded...)
	}
	return objs, nil
}

// sorted gives what Helm would install, in its order, and what hooks it would
// keep for later.
func (r Release) sorted() ([]*release.Hook, []releaseutil.Manifest, error) {
	files, err := r.files()
	if err != nil {
		return nil, nil, err
	}
	delete(files, notesFile)
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, nil, fmt.Errorf("sort the rendered manifests: %w", err)
	}
	return hooks, manifests, nil
}

// Notes gives the text that Helm would print after the installation.
func (r Release) Notes() (string, error) {
	files, err := r.files()
	if err != nil {
		return "", err
	}
	return files[notesFile], nil
}

// AgentConfig finds the agent's configuration file among rendered objects: what
// the DaemonSet's pods see as /etc/stoker/config.yaml. An agent that runs outside
// of a pod gets it as a file.
func AgentConfig(objs []*unstructured.Unstructured) ([]byte, error) {
	for _, obj := range objs {
		if obj.GetKind() != "ConfigMap" {
			continue
		}
		config, found, err := unstructured.NestedString(obj.Object, "data", "config.yaml")
		if err != nil {
			return nil, fmt.Errorf("read ConfigMap %s: %w", objectKey(obj), err)
		}
		if found {
			return []byte(config), nil
		}
	}
	return nil, errors.New("find the agent's configuration: no ConfigMap with a key config.yaml is among the objects")
}

// files gives the rendered templates by file name.
func (r Release) files() (map[string]string, error) {
	c, err := load(r.Chart)
	if err != nil {
		return nil, err
	}
	return r.render(c)
}

// render gives the rendered templates of the chart by file name.
func (r Release) render(c *chart.Chart) (map[string]string, error) {
	values, err := common.ReadValues(r.Values)
	if err != nil {
		return nil, fmt.Errorf("read values: %w", err)
	}
	if r.Umbrella {
		c, values = umbrella(c), common.Values{r.Chart: values.AsMap()}
		if err := chartutil.ProcessDependencies(c, values); err != nil {
			return nil, fmt.Errorf("read the conditions of dependencies: %w", err)
		}
	}
	options := common.ReleaseOptions{Name: r.Name, Namespace: r.Namespace, Revision: 1, IsInstall: true}
	capabilities := common.DefaultCapabilities.Copy()
	version := r.KubeVersion
	if version == "" {
		version = kubernetesVersion
	}
	parsed, err := common.ParseKubeVersion(version)
	if err != nil {
		return nil, fmt.Errorf("read version %q of Kubernetes: %w", version, err)
	}
	capabilities.KubeVersion = *parsed
	top, err := util.ToRenderValues(c, values, options, capabilities)
	if err != nil {
		return nil, fmt.Errorf("check values: %w", err)
	}
	rendered, err := engine.Render(c, top)
	if err != nil {
		return nil, fmt.Errorf("render chart %s: %w", c.Name(), err)
	}
	files := make(map[string]string, len(rendered))
	for name, content := range rendered {
		files[path.Base(name)] = content
	}
	return files, nil
}

// umbrella is a chart that has nothing but a dependency.
func umbrella(dependency *chart.Chart) *chart.Chart {
	name := dependency.Name()
	c := &chart.Chart{Metadata: &chart.Metadata{
		APIVersion: chart.APIVersionV2, Name: "umbrella", Version: "0.1.0",
		Dependencies: []*chart.Dependency{{Name: name, Version: dependency.Metadata.Version, Condition: name + ".enabled"}},
	}}
	c.SetDependencies(dependency)
	return c
}

func load(name string) (*chart.Chart, error) {
	dir, err := Dir(name)
	if err != nil {
		return nil, err
	}
	c, err := loader.LoadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("load chart %s: %w", dir, err)
	}
	return c, nil
}

// Dir finds the folder of a chart of this repository, from the working
// directory upwards.
func Dir(name string) (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find chart %s: %w", name, err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		candidate := filepath.Join(dir, "charts", name)
		_, err := os.Stat(filepath.Join(candidate, "Chart.yaml"))
		if err == nil {
			return candidate, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("find chart %s: %w", name, err)
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find chart %s: no charts/%s above %s; run inside the repository", name, name, start)
		}
	}
}

// decode reads YAML documents; empty ones are left out.
func decode(manifest []byte) ([]*unstructured.Unstructured, error) {
	var objs []*unstructured.Unstructured
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	for {
		content := map[string]any{}
		err := d.Decode(&content)
		if errors.Is(err, io.EOF) {
			return objs, nil
		}
		if err != nil {
			return nil, err
		}
		if len(content) > 0 {
			objs = append(objs, &unstructured.Unstructured{Object: content})
		}
	}
}
