package charts

import (
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

// manyValues are the files of values that together render every object.
func manyValues(t *testing.T) map[string][]byte {
	t.Helper()
	return map[string][]byte{"default": nil, "full": fullValues(t), "readonly": readOnlyValues(t)}
}

// With another namespace, the release's own is nowhere left.
func TestNamespaceOverride(t *testing.T) {
	for name, values := range manyValues(t) {
		before := manifest(t, everything(t, values))
		after := manifest(t, everything(t, at(t, values, "namespaceOverride", "gpu-agents")))
		want := strings.ReplaceAll(before, "gpu-system", "gpu-agents")
		want = releaseWords().ReplaceAllString(want, "gpu-system/rel$1") // Helm keeps the release where it was installed
		if diff := cmp.Diff(want, after); diff != "" || after == before {
			t.Errorf("%s: the namespace is not replaced everywhere (-want +got):\n%s", name, diff)
		}
	}
}

// A common label is on every object and on every pod, and selects none.
func TestCommonLabels(t *testing.T) {
	for name, values := range manyValues(t) {
		for _, obj := range everything(t, at(t, values, "commonLabels", map[string]any{"cost-center": "ml"})) {
			places := [][]string{{"metadata", "labels"}}
			if _, isPod, err := unstructured.NestedMap(obj.Object, "spec", "template"); isPod || err != nil {
				places = append(places, []string{"spec", "template", "metadata", "labels"})
			}
			for _, place := range places {
				if got, _, err := unstructured.NestedString(obj.Object, append(place, "cost-center")...); got != "ml" || err != nil {
					t.Errorf("%s: %s %s has no common label at %s: %v", name, obj.GetKind(), obj.GetName(), strings.Join(place, "."), err)
				}
			}
			if _, selects, err := unstructured.NestedString(obj.Object, "spec", "selector", "matchLabels", "cost-center"); selects || err != nil {
				t.Errorf("%s: %s %s selects by a common label: %v", name, obj.GetKind(), obj.GetName(), err)
			}
		}
	}
}

// releaseWords finds the release as agents name it, NAMESPACE/NAME, at the end of a value.
func releaseWords() *regexp.Regexp { return regexp.MustCompile(`(?m)gpu-agents/rel(["']?)$`) }
