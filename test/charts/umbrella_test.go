package charts

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// As the dependency of an umbrella chart, both charts render what they render by
// themselves, and nothing where its condition is false.
func TestUmbrella(t *testing.T) {
	for _, i := range bothCharts(t) {
		alone, err := i.release(i.least).Objects()
		if err != nil {
			t.Fatal(err)
		}
		for values, want := range map[string]string{
			"": manifest(t, alone), "enabled: true\nglobal: {imageRegistry: registry.example}\n": manifest(t, alone), "enabled: false\n": "",
		} {
			r := i.release(append([]byte(values), i.least...))
			r.Umbrella = true
			objs, err := r.Objects()
			if err != nil {
				t.Fatal(err)
			}
			if got := manifest(t, objs); got != want {
				t.Errorf("%s in an umbrella chart, with %q, renders %d bytes, want %d", i.chart, values, len(got), len(want))
			}
		}
		_, err = i.release(append([]byte("enabled: false\n"), i.least...)).Objects()
		if err == nil || !strings.Contains(err.Error(), "enabled is false, but the chart is rendered") {
			t.Errorf("%s by itself, with enabled: false: %v", i.chart, err)
		}
	}
}

// everything gives all objects of charts/stoker, hooks included.
func everything(t *testing.T, values []byte) []*unstructured.Unstructured {
	t.Helper()
	return append(renderAll(t, values), renderHooks(t, values)...)
}

// manyValues are the files of values that together render every object of charts/stoker.
func manyValues(t *testing.T) map[string][]byte {
	t.Helper()
	return map[string][]byte{"default": nil, "full": fullValues(t), "readonly": readOnlyValues(t)}
}

// many are the charts with values that together render every object.
func many(t *testing.T) map[string]struct {
	values  []byte
	objects func(values []byte) []*unstructured.Unstructured
} {
	t.Helper()
	out := map[string]struct {
		values  []byte
		objects func(values []byte) []*unstructured.Unstructured
	}{}
	for name, values := range manyValues(t) {
		entry := out[name]
		entry.values, entry.objects = values, func(values []byte) []*unstructured.Unstructured { return everything(t, values) }
		out[name] = entry
	}
	full := readFile(t, filepath.Join("testdata", "vllm-full-values.yaml"))
	for name, values := range map[string][]byte{"vllm": full, "vllm-hpa": at(t, full, "autoscaling.kind", "hpa"), "vllm-nodes": at(t, full, "workload", "LeaderWorkerSet")} {
		entry := out[name]
		entry.values = values
		entry.objects = func(values []byte) []*unstructured.Unstructured {
			objs, err := Release{Chart: VLLM, Name: "rel", Namespace: "gpu-system", Values: values}.Objects()
			if err != nil {
				t.Fatal(err)
			}
			return objs
		}
		out[name] = entry
	}
	return out
}

// With another namespace, the release's own is nowhere left.
func TestNamespaceOverride(t *testing.T) {
	for name, m := range many(t) {
		before := manifest(t, m.objects(m.values))
		after := manifest(t, m.objects(at(t, m.values, "namespaceOverride", "gpu-agents")))
		want := strings.ReplaceAll(before, "gpu-system", "gpu-agents")
		want = releaseWords().ReplaceAllString(want, "gpu-system/rel$1") // Helm keeps the release where it was installed
		if diff := cmp.Diff(want, after); diff != "" || after == before {
			t.Errorf("%s: the namespace is not replaced everywhere (-want +got):\n%s", name, diff)
		}
	}
}

// A common label is on every object and on every pod, and selects none.
func TestCommonLabels(t *testing.T) {
	for name, m := range many(t) {
		for _, obj := range m.objects(at(t, m.values, "commonLabels", map[string]any{"cost-center": "ml"})) {
			places := [][]string{{"metadata", "labels"}}
			for _, template := range [][]string{{"spec", "template"}, {"spec", "leaderWorkerTemplate", "leaderTemplate"}, {"spec", "leaderWorkerTemplate", "workerTemplate"}} {
				if _, isPod, err := unstructured.NestedMap(obj.Object, template...); isPod || err != nil {
					places = append(places, append(template, "metadata", "labels"))
				}
			}
			for _, place := range places {
				if got, _, err := unstructured.NestedString(obj.Object, append(place, "cost-center")...); got != "ml" || err != nil {
					t.Errorf("%s: %s %s has no common label at %s: %v", name, obj.GetKind(), obj.GetName(), strings.Join(place, "."), err)
				}
			}
			if selector, found, err := unstructured.NestedMap(obj.Object, "spec", "selector"); found && (err != nil || strings.Contains(fmt.Sprint(selector), "cost-center")) {
				t.Errorf("%s: %s %s selects by a common label: %v", name, obj.GetKind(), obj.GetName(), err)
			}
		}
	}
}

// releaseWords finds the release as agents name it, NAMESPACE/NAME, at the end of a value.
func releaseWords() *regexp.Regexp { return regexp.MustCompile(`(?m)gpu-agents/rel(["']?)$`) }
