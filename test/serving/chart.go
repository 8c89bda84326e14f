package serving

import (
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// RulesFile joins the rendered PrometheusRules as the operator does: their groups
// in one file of rules.
func RulesFile(objs []*unstructured.Unstructured) ([]byte, error) {
	var groups []any
	for _, obj := range objs {
		if obj.GetKind() != "PrometheusRule" {
			continue
		}
		own, _, err := unstructured.NestedSlice(obj.Object, "spec", "groups")
		if err != nil {
			return nil, fmt.Errorf("read the rules of %s: %w", obj.GetName(), err)
		}
		groups = append(groups, own...)
	}
	return yaml.Marshal(map[string]any{"groups": groups})
}

// Query is one query of a dashboard.
type Query struct {
	Dashboard, Panel, Expr string
}

// Queries are all of the rendered dashboards, as Grafana sends them: with its
// variables replaced.
func Queries(objs []*unstructured.Unstructured, variables map[string]string) ([]Query, error) {
	replacements := []string{"$__rate_interval", "1m"}
	for name, value := range variables {
		replacements = append(replacements, "$"+name, value)
	}
	replace := strings.NewReplacer(replacements...)
	var queries []Query
	for _, obj := range objs {
		if obj.GetKind() != "ConfigMap" {
			continue
		}
		data, _, err := unstructured.NestedStringMap(obj.Object, "data")
		if err != nil {
			return nil, fmt.Errorf("read ConfigMap %s: %w", obj.GetName(), err)
		}
		for name, content := range data {
			if !strings.HasSuffix(name, ".json") {
				continue
			}
			own, err := dashboardQueries(content, replace)
			if err != nil {
				return nil, fmt.Errorf("read dashboard %s: %w", name, err)
			}
			for _, q := range own {
				q.Dashboard = name
				queries = append(queries, q)
			}
		}
	}
	return queries, nil
}

// labelValues is the query of a dashboard's variable.
var labelValues = regexp.MustCompile(`^label_values\((.+), \w+\)$`)

func dashboardQueries(content string, replace *strings.Replacer) ([]Query, error) {
	var dashboard struct {
		Panels []struct {
			Title   string `json:"title"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
		Templating struct {
			List []struct {
				Name, Type string
				Query      any
			} `json:"list"`
		} `json:"templating"`
	}
	if err := yaml.Unmarshal([]byte(content), &dashboard); err != nil {
		return nil, err
	}
	var queries []Query
	for _, p := range dashboard.Panels {
		for _, t := range p.Targets {
			queries = append(queries, Query{Panel: p.Title, Expr: replace.Replace(t.Expr)})
		}
	}
	for _, v := range dashboard.Templating.List {
		if v.Type != "query" {
			continue
		}
		query, ok := v.Query.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("variable %s has the query %v", v.Name, v.Query)
		}
		text, _ := query["query"].(string)
		found := labelValues.FindStringSubmatch(text)
		if found == nil {
			return nil, fmt.Errorf("variable %s has the query %q, which is no label_values", v.Name, text)
		}
		queries = append(queries, Query{Panel: "variable " + v.Name, Expr: replace.Replace(found[1])})
	}
	return queries, nil
}
