package charts

import (
	"encoding/json"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/stoker-project/stoker/agent"
)

// schemaNode is the part of a JSON schema that the drift guards read.
type schemaNode struct {
	Description          string                 `json:"description"`
	AdditionalProperties json.RawMessage        `json:"additionalProperties"`
	Properties           map[string]*schemaNode `json:"properties"`
}

func readSchema(t *testing.T, chart string) *schemaNode {
	t.Helper()
	var schema schemaNode
	if err := json.Unmarshal(chartFile(t, chart, "values.schema.json"), &schema); err != nil {
		t.Fatal(err)
	}
	return &schema
}

// value is one leaf of values.yaml: what the schema does not split further.
type value struct {
	comment string
	content *yaml.Node
	schema  *schemaNode
}

// leaves collects the leaves below a mapping of values.yaml by their dotted
// path. A key without a schema entry ends up as a leaf without one.
func leaves(prefix string, mapping *yaml.Node, schema *schemaNode, into map[string]value) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, content := mapping.Content[i], mapping.Content[i+1]
		path := prefix + key.Value
		entry := schema.Properties[key.Value]
		if entry != nil && content.Kind == yaml.MappingNode && len(content.Content) > 0 && len(entry.Properties) > 0 {
			leaves(path+".", content, entry, into)
			continue
		}
		into[path] = value{comment: key.HeadComment, content: content, schema: entry}
	}
}

func readValues(t *testing.T, chart string) map[string]value {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal(chartFile(t, chart, "values.yaml"), &document); err != nil {
		t.Fatal(err)
	}
	into := map[string]value{}
	leaves("", document.Content[0], readSchema(t, chart), into)
	return into
}

// readmeRow is a row of the README's table of values: path, default, meaning.
var readmeRow = regexp.MustCompile("(?m)^\\| `([A-Za-z.]+)` \\| `([^`]+)` \\| (.+) \\|$")

func TestEveryValueIsExplained(t *testing.T) {
	for _, i := range bothCharts(t) {
		t.Run(i.chart, func(t *testing.T) { explained(t, i.chart) })
	}
}

func explained(t *testing.T, chart string) {
	values := readValues(t, chart)
	if len(values) < 40 {
		t.Fatalf("found only %d values; the test reads values.yaml wrongly", len(values))
	}
	rows := map[string]string{}
	for _, match := range readmeRow.FindAllStringSubmatch(string(chartFile(t, chart, "README.md")), -1) {
		if _, twice := rows[match[1]]; twice {
			t.Errorf("README.md has two rows for %s", match[1])
		}
		rows[match[1]] = match[2]
	}
	for _, path := range slices.Sorted(maps.Keys(values)) {
		v := values[path]
		if !strings.Contains(v.comment, "# -- ") {
			t.Errorf("%s: no comment beginning with -- stands above it in values.yaml", path)
		}
		if v.schema == nil {
			t.Errorf("%s: no entry in values.schema.json", path)
		} else if v.schema.Description == "" {
			t.Errorf("%s: no description in values.schema.json", path)
		}
		row, ok := rows[path]
		if !ok {
			t.Errorf("%s: no row in README.md", path)
			continue
		}
		var content any
		if err := v.content.Decode(&content); err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if row != string(want) {
			t.Errorf("%s: README.md gives the default %s, values.yaml %s", path, row, want)
		}
		delete(rows, path)
	}
	for path := range rows {
		t.Errorf("README.md has a row for %s, which is not in values.yaml", path)
	}
}

// A property that only the schema knows would be accepted and do nothing.
func TestSchemaKnowsNoOtherValues(t *testing.T) {
	for _, i := range bothCharts(t) {
		t.Run(i.chart, func(t *testing.T) { knowsNoOthers(t, i.chart) })
	}
}

func knowsNoOthers(t *testing.T, chart string) {
	var values map[string]any
	if err := yaml.Unmarshal(chartFile(t, chart, "values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	var compare func(path string, schema *schemaNode, have map[string]any)
	compare = func(path string, schema *schemaNode, have map[string]any) {
		for key, entry := range schema.Properties {
			child, ok := have[key]
			if !ok && path+key != "global" && path+key != "enabled" && path+key != "monitoring.stoker" {
				t.Errorf("values.schema.json knows %s, which is not in values.yaml", path+key)
			}
			if below, isMap := child.(map[string]any); isMap && len(below) > 0 {
				compare(path+key+".", entry, below)
			}
		}
		if len(schema.Properties) > 0 && string(schema.AdditionalProperties) != "false" {
			t.Errorf("values.schema.json takes unknown keys below %q", path)
		}
	}
	compare("", readSchema(t, chart), values)
}

// A setting that the agent knows and the chart does not could not be set.
func TestEverySettingOfTheAgentIsAValue(t *testing.T) {
	values := readValues(t, Stoker)
	for section, config := range map[string]reflect.Type{
		"store":     reflect.TypeFor[agent.StoreConfig](),
		"pull":      reflect.TypeFor[agent.PullConfig](),
		"gpu":       reflect.TypeFor[agent.GPUConfig](),
		"startup":   reflect.TypeFor[agent.StartupConfig](),
		"intervals": reflect.TypeFor[agent.Intervals](),
	} {
		known := 0
		for path := range values {
			if strings.HasPrefix(path, "agent."+section+".") {
				known++
			}
		}
		if known != config.NumField() {
			t.Errorf("agent.%s has %d values, the agent has %d settings", section, known, config.NumField())
		}
	}
}

// A file of full values stands for every value, so it must set every one.
func TestFullValuesSetEverything(t *testing.T) {
	for _, i := range bothCharts(t) {
		t.Run(i.chart, func(t *testing.T) { setsEverything(t, i) })
	}
}

func setsEverything(t *testing.T, i installed) {
	var full map[string]any
	if err := yaml.Unmarshal(i.full, &full); err != nil {
		t.Fatal(err)
	}
	for path, v := range readValues(t, i.chart) {
		if slices.Contains(i.testedByThemselves, path) {
			continue
		}
		var node any = full
		for key := range strings.SplitSeq(path, ".") {
			below, isMap := node.(map[string]any)
			if !isMap {
				node = nil
				break
			}
			node = below[key]
		}
		var standard any
		if err := v.content.Decode(&standard); err != nil {
			t.Fatal(err)
		}
		if node == nil || (reflect.DeepEqual(node, standard) && !slices.Contains(i.keptDefaults, path)) {
			t.Errorf("%s is not set, or to its default, in the file of full values", path)
		}
	}
}

// People read values in terminals and side by side in reviews.
func TestValuesFitTheirColumns(t *testing.T) {
	for _, chart := range []string{"stoker", "vllm"} {
		at := 0
		for line := range strings.Lines(string(chartFile(t, chart, "values.yaml"))) {
			at++
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 120 {
				t.Errorf("line %d of the values of chart %s has %d columns", at, chart, n)
			}
		}
	}
}
