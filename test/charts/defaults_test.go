package charts

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"sigs.k8s.io/yaml"
)

// nullClears are scalars whose null has a meaning of its own.
var nullClears = map[string][]string{VLLM: {"maxUnavailable"}}

// What templates fall back to is what values.yaml says.
func TestDefaults(t *testing.T) {
	for _, name := range []string{Stoker, VLLM} {
		want, err := DefaultsTemplate(name, nullClears[name]...)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := Dir(name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, DefaultsFile)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if diff := cmp.Diff(want, string(readFile(t, path))); diff != "" {
			t.Errorf("%s is not made of values.yaml; rewrite it with -update (-want +got):\n%s", path, diff)
		}
	}
}

// keyPaths are the paths of every key of the values, maps and leaves, and what
// they hold.
func keyPaths(prefix string, values map[string]any) map[string]any {
	paths := map[string]any{}
	for key, content := range values {
		paths[prefix+key] = content
		if below, isMap := content.(map[string]any); isMap {
			maps.Copy(paths, keyPaths(prefix+key+".", below))
		}
	}
	return paths
}

// at is the values with one path set to content.
func at(t *testing.T, values []byte, path string, content any) []byte {
	t.Helper()
	return with(t, values, func(all map[string]any) {
		keys := strings.Split(path, ".")
		for _, key := range keys[:len(keys)-1] {
			below, ok := all[key].(map[string]any)
			if !ok {
				below = map[string]any{}
				all[key] = below
			}
			all = below
		}
		all[keys[len(keys)-1]] = content
	})
}

// cleared is what a default is replaced by where null clears it.
func cleared(standard any) any {
	switch standard := standard.(type) {
	case map[string]any:
		nothing := map[string]any{}
		for key := range standard {
			nothing[key] = nil
		}
		return nothing
	case []any:
		return []any{}
	}
	return nil
}

// A key without a value, which YAML reads as null, is its default to templates,
// or nothing where null clears. That holds for every key of both charts,
// installed by themselves and by an umbrella chart: for each map, and for all
// that is in them at once.
func TestNullIsTheDefault(t *testing.T) {
	for _, i := range bothCharts(t) {
		for _, inside := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, in an umbrella chart: %v", i.chart, inside), func(t *testing.T) {
				t.Parallel()
				nullIsTheDefault(t, i, inside)
			})
		}
	}
}

func nullIsTheDefault(t *testing.T, i installed, inside bool) {
	var values map[string]any
	if err := yaml.Unmarshal(chartFile(t, i.chart, "values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	var schema schemaProperties
	if err := yaml.Unmarshal(chartFile(t, i.chart, "values.schema.json"), &schema); err != nil {
		t.Fatal(err)
	}
	clears := append(clearable("", values, &schema), nullClears[i.chart]...)
	c := onlyValues(t, i.chart)
	seen := func(values []byte) map[string]any {
		r := i.release(values)
		r.Umbrella = inside
		files, err := r.render(c())
		if err != nil {
			t.Fatalf("%s\nis refused: %v", values, err)
		}
		var got map[string]any
		if err := yaml.Unmarshal([]byte(files[valuesFile]), &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	bare, spelledOut := i.least, i.least
	for path, content := range keyPaths("", values) {
		switch below, isMap := content.(map[string]any); {
		case i.chart == VLLM && path == "model.name": // has no default
		case slices.ContainsFunc(clears, func(open string) bool { return strings.HasPrefix(path, open+".") }): // goes with its map
		case isMap && len(below) > 0 && !slices.Contains(clears, path):
			if diff := cmp.Diff(seen(at(t, i.least, path, content)), seen(at(t, i.least, path, nil))); diff != "" {
				t.Errorf("%s: null is something else (-want +got):\n%s", path, diff)
			}
		case slices.Contains(clears, path):
			bare, spelledOut = at(t, bare, path, nil), at(t, spelledOut, path, cleared(content))
		default:
			bare, spelledOut = at(t, bare, path, nil), at(t, spelledOut, path, content)
		}
	}
	if diff := cmp.Diff(seen(spelledOut), seen(bare)); diff != "" {
		t.Errorf("null everywhere is something else (-want +got):\n%s", diff)
	}
}

const valuesFile = "values.yaml"

// onlyValues makes charts whose only template writes what templates see as
// values. Every template of the chart itself must see the same.
func onlyValues(t *testing.T, name string) func() *chart.Chart {
	t.Helper()
	full, err := load(name)
	if err != nil {
		t.Fatal(err)
	}
	begin := fmt.Sprintf("{{- include %q . -}}\n", name+".defaulted")
	templates := []*common.File{{Name: "templates/" + valuesFile, Data: []byte(begin + "{{ toJson .Values }}")}}
	for _, f := range full.Templates {
		if strings.HasPrefix(filepath.Base(f.Name), "_") {
			templates = append(templates, f)
		} else if !strings.HasPrefix(string(f.Data), begin) {
			t.Errorf("%s does not begin with %s", f.Name, begin)
		}
	}
	return func() *chart.Chart {
		return &chart.Chart{Metadata: full.Metadata, Templates: templates, Values: full.Values, Schema: full.Schema}
	}
}
