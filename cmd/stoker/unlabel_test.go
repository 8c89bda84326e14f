package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/agent/sweep"
)

func TestUnlabelTable(t *testing.T) {
	removed := []sweep.Removed{
		{Node: "gpu-1", Keys: []string{"gpu.stoker.dev/idle", "warm.stoker.dev/llama", "stoker.dev/status"}},
		{Node: "gpu-2.example", Err: errors.New("remove keys of node gpu-2.example: connection refused")},
	}
	for output, name := range map[string]string{"table": "golden/unlabel.txt", "json": "golden/unlabel.json"} {
		var out strings.Builder
		c := &cli{stdout: &out, json: &out}
		if err := c.printUnlabel(removed, "", output); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.String())
	}
	for output, want := range map[string]string{"table": "no node has anything that agents wrote\n", "json": "{\n  \"nodes\": []\n}\n"} {
		var out strings.Builder
		c := &cli{stdout: &out, json: &out}
		if err := c.printUnlabel(nil, "", output); err != nil || out.String() != want {
			t.Errorf("%s: %q, %v", output, out.String(), err)
		}
	}
}
