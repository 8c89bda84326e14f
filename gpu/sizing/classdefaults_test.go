package sizing

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite what is generated: classdefaults.txt")

// TestClassDefaults holds the table against the transformers package that the virtual environment has.
func TestClassDefaults(t *testing.T) {
	python := os.Getenv("STOKER_TEST_PYTHON")
	if python == "" {
		t.Skip("no virtual environment with transformers: make test makes one (STOKER_TEST_PYTHON)")
	}
	cmd := exec.CommandContext(t.Context(), python, "classdefaults.py")
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "TRANSFORMERS_VERBOSITY=error", "PYTHONDONTWRITEBYTECODE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("classdefaults.py: %v\n%s", err, stderr.String())
	}
	if *update {
		if err := os.WriteFile("classdefaults.txt", got, 0o644); err != nil { //nolint:gosec // a source file
			t.Fatal(err)
		}
		return
	}
	have := strings.Split(classDefaults, "\n")
	want := strings.Split(string(got), "\n")
	if !reflect.DeepEqual(have, want) {
		t.Errorf("classdefaults.txt has %d lines and transformers %d, or they differ; run go test ./gpu/sizing -run TestClassDefaults -update and look at the change",
			len(have), len(want))
	}
}

// TestEveryDefaultIsRead: each line of the table is an object of numbers, truths and names.
func TestEveryDefaultIsRead(t *testing.T) {
	for line := range strings.SplitSeq(strings.TrimSpace(classDefaults), "\n") {
		modelType, _, _ := strings.Cut(line, " ")
		fields := defaultsOf(modelType)
		if len(fields) == 0 {
			t.Errorf("%q has no defaults", line)
		}
		for name, raw := range fields {
			var value any
			if json.Unmarshal(raw, &value) != nil || value == nil {
				t.Errorf("%s: %s is %s", modelType, name, raw)
			}
		}
	}
	for _, strange := range []string{"", "no_such_type", "gemma3 ", "gemma3_text {", "gemma3\ngemma3_text"} {
		if got := defaultsOf(strange); got != nil {
			t.Errorf("%q: %v", strange, got)
		}
	}
}

// TestLeftToTheClass: what a published config.json leaves out is the same as what another one spells out, and null
// is not left out.
func TestLeftToTheClass(t *testing.T) {
	for _, size := range []string{"4b", "12b", "27b"} {
		short, full := shape(t, "gemma3-"+size), shape(t, "gemma3-"+size+"-full")
		if !reflect.DeepEqual(short.Architecture, full.Architecture) {
			t.Errorf("gemma3-%s:\n%+v\n%+v", size, short.Architecture, full.Architecture)
		}
		if a := short.Architecture; a.Estimated || a.MaxModelLen != 131072 || a.KVHeads == 0 || a.WindowTokens != 1024 {
			t.Errorf("gemma3-%s: %+v", size, a)
		}
	}
	for _, tt := range []struct {
		name, config      string
		headDim, kv, full uint64
		length            int64
	}{
		{
			"PaliGemma 2, whose text is a Gemma 2",
			`{"model_type": "paligemma", "text_config": {"model_type": "gemma2", "hidden_size": 2304, "num_attention_heads": 8, "num_hidden_layers": 26,
			"num_key_value_heads": 4}}`, 256, 4, 13, 8192,
		},
		{"Gemma 3 without the text's model_type", `{"model_type": "gemma3", "text_config": {"hidden_size": 2560, "num_hidden_layers": 34}}`, 256, 4, 5, 131072},
		{"the windows of Mistral's first", `{"model_type": "mistral", "num_hidden_layers": 32}`, 128, 8, 0, 131072},
		{"no windows, for null is a value", `{"model_type": "mistral", "sliding_window": null}`, 128, 8, 32, 131072},
		{"an old name for the heads", `{"model_type": "llama", "n_head": 16, "hidden_size": 1024}`, 64, 16, 32, 2048},
		{"no class in the package", `{"model_type": "strange", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}`, 16, 4, 2, defaultLength},
	} {
		a := read(t, tiny(t, tt.config)).Architecture
		if a.KeyHeadDim != tt.headDim || a.KVHeads != tt.kv || a.FullLayers != tt.full || a.MaxModelLen != tt.length {
			t.Errorf("%s: heads of %d, %d of them, %d full layers, %d tokens; want %d, %d, %d, %d",
				tt.name, a.KeyHeadDim, a.KVHeads, a.FullLayers, a.MaxModelLen, tt.headDim, tt.kv, tt.full, tt.length)
		}
	}
}
