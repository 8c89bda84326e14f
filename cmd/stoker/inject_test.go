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
			CPU     string `json:"cpu"`
			Memory  string `json:"memory"`
			Weights struct {
				Warm int `json:"warm"`
				RAM  int `json:"ram"`
			} `json:"weights"`
			RequireFits bool `json:"requireFits"`
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
	warm, err := flags.GetInt("weight-warm")
	if err != nil {
		t.Fatal(err)
	}
	ram, err := flags.GetInt("weight-ram")
	if err != nil || warm != values.Inject.Weights.Warm || ram != values.Inject.Weights.RAM {
		t.Errorf("the weights are %d and %d, the chart's %+v: %v", warm, ram, values.Inject.Weights, err)
	}
}
