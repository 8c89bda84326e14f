package serving

import (
	"regexp"
	"slices"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

var (
	stokerName = regexp.MustCompile(`\bstoker_[a-z_]+\b`)
	sweepName  = regexp.MustCompile(`desc\("([a-z_]+)"`)
)

// findNames are Stoker's metrics in a text, once each; a histogram's parts count
// as they stand there.
func findNames(text string) []string {
	names := stokerName.FindAllString(text, -1)
	slices.Sort(names)
	return slices.Compact(names)
}

// alerts are the names of all that the rendered rules have.
func alerts(t *testing.T, objs []*unstructured.Unstructured) []string {
	t.Helper()
	content, err := RulesFile(objs)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Alert string }
		}
	}
	if err := yaml.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			names = append(names, r.Alert)
		}
	}
	if len(names) < 15 {
		t.Fatalf("found only the alerts %q", names)
	}
	return names
}

// triggerQuery is the query of one of the ScaledObject's triggers.
func triggerQuery(t *testing.T, objs []*unstructured.Unstructured, name string) string {
	t.Helper()
	for _, obj := range objs {
		if obj.GetKind() != "ScaledObject" {
			continue
		}
		triggers, _, err := unstructured.NestedSlice(obj.Object, "spec", "triggers")
		if err != nil {
			t.Fatal(err)
		}
		for _, trigger := range triggers {
			fields, ok := trigger.(map[string]any)
			if !ok || fields["name"] != name {
				continue
			}
			query, _, err := unstructured.NestedString(fields, "metadata", "query")
			if err != nil {
				t.Fatal(err)
			}
			return query
		}
	}
	t.Fatalf("no trigger %s", name)
	return ""
}

// hpaMetrics are the names of what the rendered HPA asks for.
func hpaMetrics(t *testing.T, objs []*unstructured.Unstructured) []string {
	t.Helper()
	var names []string
	for _, obj := range objs {
		if obj.GetKind() != "HorizontalPodAutoscaler" {
			continue
		}
		var hpa autoscalingv2.HorizontalPodAutoscaler
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &hpa); err != nil {
			t.Fatal(err)
		}
		for _, m := range hpa.Spec.Metrics {
			names = append(names, m.Pods.Metric.Name)
		}
	}
	if len(names) != 2 {
		t.Fatalf("the HPA asks for %q", names)
	}
	return names
}

// adapterRule is one rule of the Prometheus adapter's configuration.
type adapterRule struct {
	SeriesQuery  string
	MetricsQuery string
	Name         struct{ As string }
	Resources    struct {
		Overrides map[string]struct{ Resource string }
	}
}

var adapterBlock = regexp.MustCompile("(?s)```yaml\nrules:\n(.*?)```")

// adapterConfig is the configuration that the README shows.
func adapterConfig(t *testing.T, readme string) []byte {
	t.Helper()
	found := adapterBlock.FindStringSubmatch(readme)
	if found == nil {
		t.Fatal("the README shows no rules of the Prometheus adapter")
	}
	// The adapter's own file has at the top what its chart has under rules.custom.
	var values struct {
		Rules struct{ Custom []any }
	}
	if err := yaml.UnmarshalStrict([]byte("rules:\n"+found[1]), &values); err != nil {
		t.Fatal(err)
	}
	config, err := yaml.Marshal(map[string]any{"rules": values.Rules.Custom})
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// adapterRules reads those that the README shows, by the name that they give.
func adapterRules(t *testing.T, readme string) map[string]adapterRule {
	t.Helper()
	var config struct{ Rules []adapterRule }
	if err := yaml.UnmarshalStrict(adapterConfig(t, readme), &config); err != nil {
		t.Fatal(err)
	}
	rules := map[string]adapterRule{}
	for _, r := range config.Rules {
		if r.Resources.Overrides["pod"].Resource != "pod" || r.Resources.Overrides["namespace"].Resource != "namespace" {
			t.Errorf("the rule of %s does not say which label is the pod and which the namespace", r.Name.As)
		}
		rules[r.Name.As] = r
	}
	return rules
}
