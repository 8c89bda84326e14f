package charts

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// update rewrites the golden files: go test ./charts -update.
var update = flag.Bool("update", false, "rewrite golden files")

// readFile reads a file or ends the test.
func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// chartFile reads a file of a chart.
func chartFile(t *testing.T, chart, name string) []byte {
	t.Helper()
	dir, err := Dir(chart)
	if err != nil {
		t.Fatal(err)
	}
	return readFile(t, filepath.Join(dir, name))
}

// fullValues sets every value of charts/stoker to something else than its
// default.
func fullValues(t *testing.T) []byte {
	t.Helper()
	return readFile(t, filepath.Join("testdata", "full-values.yaml"))
}

// installed is a chart as the guards look at each: with the least values that
// install it, and with every value set.
type installed struct {
	chart              string
	least, full        []byte
	golden             string   // what the names of its golden files begin with
	keptDefaults       []string // another value would leave out what others are about
	testedByThemselves []string // would contradict others of the file
}

func (i installed) release(values []byte) Release {
	return Release{Chart: i.chart, Name: "rel", Namespace: "gpu-system", Values: values}
}

func bothCharts(t *testing.T) []installed {
	t.Helper()
	return []installed{
		{
			chart: Stoker, full: fullValues(t),
			keptDefaults:       []string{"updateStrategy.type", "inject.enabled", "inject.force", "sweeper.enabled", "uninstall.removeLabels", "serviceAccount.create", "rbac.create"},
			testedByThemselves: []string{"fullnameOverride", "namespaceOverride", "hostNetwork", "driver.mounted", "driver.visibleDevices", "volume.readOnly.source", "populate.enabled"},
		},
		{
			chart: VLLM, least: []byte(leastVLLM), full: readFile(t, filepath.Join("testdata", "vllm-full-values.yaml")), golden: "vllm-",
			keptDefaults:       []string{"stoker.enabled", "stoker.fitCheck", "rollout.type"},
			testedByThemselves: []string{"fullnameOverride", "namespaceOverride", "workload", "multiNode.size", "multiNode.exclusiveTopology", "model.source", "replicas"},
		},
	}
}

// leastVLLM is what charts/vllm cannot do without.
const leastVLLM = "model: {name: qwen2.5-7b-instruct}\n"

// checkGolden compares got with testdata/name, or rewrites it under -update.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(readFile(t, path)), got); diff != "" {
		t.Errorf("%s differs (-golden +got); rewrite it with -update if this is meant:\n%s", path, diff)
	}
}
