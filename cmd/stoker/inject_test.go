package main

import (
	"io"
	"os"
	"testing"

	"sigs.k8s.io/yaml"
)

// What stoker inject takes where nothing is said is what the chart takes.
func TestInjectDefaultsAreTheCharts(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../charts/stoker/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		Image struct {
			Repository string `json:"repository"`
			PullPolicy string `json:"pullPolicy"`
		} `json:"image"`
		Inject struct {
			CPU         string         `json:"cpu"`
			Memory      string         `json:"memory"`
			Weights     map[string]int `json:"weights"`
			RequireFits bool           `json:"requireFits"`
		} `json:"inject"`
	}
	if err := yaml.Unmarshal(data, &values); err != nil {
		t.Fatal(err)
	}
	c := &cli{stdout: io.Discard, stderr: io.Discard}
	flags := c.injectCommand().Flags()
	bools := map[bool]string{true: "true", false: "false"}
	for flag, want := range map[string]string{
		"image": values.Image.Repository + ":" + version, "pull-policy": values.Image.PullPolicy,
		"cpu": values.Inject.CPU, "memory": values.Inject.Memory, "require-fits": bools[values.Inject.RequireFits],
	} {
		if got := flags.Lookup(flag).DefValue; got != want || got == "" {
			t.Errorf("--%s is %q, the chart's value is %q", flag, got, want)
		}
	}
	if len(values.Inject.Weights) != 4 {
		t.Errorf("the chart has the weights %v", values.Inject.Weights)
	}
	for name, want := range values.Inject.Weights {
		if got, err := flags.GetInt("weight-" + name); err != nil || got != want {
			t.Errorf("--weight-%s is %d, the chart's value is %d: %v", name, got, want, err)
		}
	}
}
