package charts

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// DefaultsFile is the template that holds the defaults of a chart's values.
const DefaultsFile = "templates/_defaults.tpl"

// schemaProperties is the part of a JSON schema that tells maps with keys of
// their own from those that take any.
type schemaProperties struct {
	Properties map[string]*schemaProperties `json:"properties"`
}

// DefaultsTemplate writes what DefaultsFile of a chart must hold: the values of
// values.yaml, and which of them null clears. Those are lists and maps of any
// keys, where a template takes nothing for empty.
func DefaultsTemplate(chart string, alsoCleared ...string) (string, error) {
	dir, err := Dir(chart)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(dir, "values.yaml"))
	if err != nil {
		return "", fmt.Errorf("read the values of chart %s: %w", chart, err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		return "", fmt.Errorf("read the values of chart %s: %w", chart, err)
	}
	var schema schemaProperties
	content, err := os.ReadFile(filepath.Join(dir, "values.schema.json"))
	if err != nil {
		return "", fmt.Errorf("read the schema of chart %s: %w", chart, err)
	}
	if err := json.Unmarshal(content, &schema); err != nil {
		return "", fmt.Errorf("read the schema of chart %s: %w", chart, err)
	}
	cleared := append(clearable("", values, &schema), alsoCleared...)
	slices.Sort(cleared)
	defaults, err := yaml.Marshal(values)
	if err != nil {
		return "", fmt.Errorf("write the defaults of chart %s: %w", chart, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `{{/*
Made of values.yaml by go -C test test -tags e2e ./charts -run TestDefaults -update. Helm takes a key that is null for one
without a default; %[1]s.defaulted gives it its default back, and a null that clears stays.
*/}}
{{- define "%[1]s.clearable" -}}
%[2]s
{{- end -}}

{{- define "%[1]s.defaults" -}}
%[3]s{{- end -}}
`, chart, strings.Join(cleared, "\n"), defaults)
	return b.String(), nil
}

// clearable are the paths of lists and open maps that are not empty by default.
func clearable(prefix string, values map[string]any, schema *schemaProperties) []string {
	var paths []string
	for key, content := range values {
		entry := &schemaProperties{}
		if schema.Properties[key] != nil {
			entry = schema.Properties[key]
		}
		switch content := content.(type) {
		case []any:
			if len(content) > 0 {
				paths = append(paths, prefix+key)
			}
		case map[string]any:
			if len(entry.Properties) > 0 {
				paths = append(paths, clearable(prefix+key+".", content, entry)...)
			} else if len(content) > 0 {
				paths = append(paths, prefix+key)
			}
		}
	}
	return paths
}
