package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// devices makes whole GPUs of 80 GiB with the given free GiB.
func devices(freeGiB ...uint64) []gpu.Device {
	var out []gpu.Device
	for i, f := range freeGiB {
		out = append(out, gpu.Device{Index: i, Name: "Test GPU", TotalBytes: 80 * gib, UsableBytes: 80 * gib, FreeBytes: f * gib, UsedBytes: (80 - f) * gib, State: gpu.StateOK})
	}
	return out
}

// sized14 is a model with 14 GiB of weights and a small cache.
func sized14() *sizing.Model {
	return &sizing.Model{
		Architecture: sizing.Architecture{
			DType: "bfloat16", KVCacheDType: "bfloat16", MaxModelLen: 4096, Layers: 28, FullLayers: 28,
			HiddenSize: 3584, Heads: 28, KVHeads: 4, KeyHeadDim: 128, ValueHeadDim: 128, Vocabulary: 152064,
		},
		Weights: sizing.Weights{Bytes: 14 * gib, LoadedBytes: 14 * gib, Parameters: 7 * gib},
	}
}

const commit = "0123456789abcdef0123456789abcdef01234567"

func warmModel(name string, tp int) modelState {
	return modelState{
		Name: name, State: StateWarm, Warm: true, Tier: TierDisk, Revision: commit, Size: sized14(), Listed: true,
		Model: Model{Name: name, Serving: sizing.Serving{TensorParallel: tp}},
	}
}

func TestLabels(t *testing.T) {
	known := func(free int, d ...gpu.Device) gpuFacts {
		return gpuFacts{Known: true, Devices: d, Free: free, FreeKnown: true}
	}
	migParent := gpu.Device{Index: 1, TotalBytes: 80 * gib, FreeBytes: 80 * gib, State: gpu.StatePartitioned}
	mig := gpu.Device{Index: 1, TotalBytes: 40 * gib, UsableBytes: 40 * gib, FreeBytes: 40 * gib, State: gpu.StateOK, MIG: &gpu.MIG{}}
	lost := gpu.Device{Index: 2, TotalBytes: 80 * gib, FreeBytes: 80 * gib, State: gpu.StateLost}
	warm := map[string]string{WarmPrefix + "m": "disk", RevPrefix + "m": "0123456789ab"}
	with := func(more map[string]string) map[string]string {
		out := map[string]string{}
		for k, v := range warm {
			out[k] = v
		}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	for _, c := range []struct {
		name   string
		models []modelState
		gpus   gpuFacts
		want   map[string]string
	}{
		{"nothing is known: nothing is said", nil, gpuFacts{}, map[string]string{}},
		{"weights without GPUs", []modelState{warmModel("m", 1)}, gpuFacts{Reason: "no driver"}, warm},
		{
			"all idle",
			[]modelState{warmModel("m", 1)},
			known(4, devices(80, 80, 79, 75)...),
			with(map[string]string{FitsPrefix + "m": "4", FreeGiBLabel: "80", IdleLabel: "4"}),
		},
		{
			"free memory limits, and rounds down to 4; 73.6 GiB are 0.92 of 80",
			[]modelState{warmModel("m", 1)},
			known(4, devices(73, 74, 2, 2)...),
			with(map[string]string{FitsPrefix + "m": "1", FreeGiBLabel: "72", IdleLabel: "1"}),
		},
		{
			"allocation limits: a GPU given to a pod that still loads looks free",
			[]modelState{warmModel("m", 1)},
			known(1, devices(79, 79, 79, 79)...),
			with(map[string]string{FitsPrefix + "m": "1", FreeGiBLabel: "76", IdleLabel: "4"}),
		},
		{
			"tensor parallelism takes whole groups",
			[]modelState{warmModel("m", 2)},
			known(3, devices(79, 79, 79, 79)...),
			with(map[string]string{FitsPrefix + "m": "1", FreeGiBLabel: "76", IdleLabel: "4"}),
		},
		{
			"nothing fits is a zero, not a missing key",
			[]modelState{warmModel("m", 1)},
			known(2, devices(3, 3)...),
			with(map[string]string{FitsPrefix + "m": "0", FreeGiBLabel: "0", IdleLabel: "0"}),
		},
		{
			"only whole and healthy GPUs count",
			[]modelState{warmModel("m", 1)},
			known(3, append(devices(79), migParent, mig, lost)...),
			with(map[string]string{FitsPrefix + "m": "1", FreeGiBLabel: "76", IdleLabel: "1"}),
		},
		{
			"pods not known: no word of what fits",
			[]modelState{warmModel("m", 1)},
			gpuFacts{Known: true, Devices: devices(79)},
			with(map[string]string{FreeGiBLabel: "76", IdleLabel: "1"}),
		},
		{
			"what is not warm has no label, whatever is published",
			[]modelState{{Name: "m", State: StateEvicting, Revision: commit, Size: sized14()}},
			known(1, devices(79)...),
			map[string]string{FreeGiBLabel: "76", IdleLabel: "1"},
		},
		{
			"a model that cannot be sized is warm all the same",
			[]modelState{{Name: "m", Warm: true, Tier: TierDisk, Revision: commit}},
			known(1, devices(79)...),
			with(map[string]string{FreeGiBLabel: "76", IdleLabel: "1"}),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, labels(c.models, wordOf(c.models, c.gpus, nil))); diff != "" {
				t.Errorf("labels differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestShortRevision(t *testing.T) {
	for in, want := range map[string]string{
		commit:             "0123456789ab",
		"v1":               "v1",
		"":                 "",
		"release-1.2.-x":   "release-1.2",
		"_._-":             "",
		"a.b.c.d.e.f.g.h.": "a.b.c.d.e.f",
	} {
		if got := shortRevision(in); got != want {
			t.Errorf("shortRevision(%q) = %q, want %q", in, got, want)
		}
	}
}

// Whoever takes labels back knows every key that the agent writes.
func TestAgentKeys(t *testing.T) {
	w := gpuWord{}
	w.FreeGiB, w.Idle = 1, 1
	for key := range labels([]modelState{warmModel("m", 1)}, w) {
		if !IsAgentLabel(key) {
			t.Errorf("%s is written and never taken back", key)
		}
	}
	for _, key := range []string{WarmPrefix + "m", RevPrefix + "m", FitsPrefix + "m", FreeGiBLabel, IdleLabel} {
		if !IsAgentLabel(key) {
			t.Errorf("%s is no agent's label", key)
		}
	}
	for _, key := range []string{ModelLabel, "stoker.dev/pool", "warm.example.com/m", "a.warm.stoker.dev/m", "warm.stoker.dev", ""} {
		if IsAgentLabel(key) || IsAgentAnnotation(key) {
			t.Errorf("%q is taken for an agent's", key)
		}
	}
	if !IsAgentAnnotation(StatusAnnotation) {
		t.Error("the status annotation is no agent's")
	}
}
