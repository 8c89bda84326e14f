package agent

import (
	"encoding/binary"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stoker-project/stoker/gpu/sizing"
)

// TestFitsOnlyWhatVLLMTakes: arguments that vLLM refuses of the model, and those with which the number of GPUs is not known,
// get no fits label, and the annotation has the reason.
func TestFitsOnlyWhatVLLMTakes(t *testing.T) {
	header := `{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}`
	read, err := sizing.ReadModel(fstest.MapFS{
		"config.json":       {Data: []byte(`{"model_type":"llama","torch_dtype":"bfloat16","hidden_size":256,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":256,"max_position_embeddings":4096}`)},
		"model.safetensors": {Data: append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header+"00"...)},
	})
	if err != nil {
		t.Fatal(err)
	}
	small := &read
	for _, tt := range []struct {
		name    string
		serving sizing.Serving
		label   string
		reason  string
	}{
		{"the model's own length", sizing.Serving{MaxModelLen: 4096}, "2", ""},
		{"longer than the model", sizing.Serving{MaxModelLen: 4097}, "", "maxModelLen 4097 is beyond the model's own 4096, which vLLM refuses; ask for less (serving.maxModelLen)"},
		{"longer, and the model is overridden", sizing.Serving{MaxModelLen: 4097, Uncounted: []string{"--hf-overrides"}}, "2", ""},
		{"heads that are not divided", sizing.Serving{TensorParallel: 3}, "", "does not divide"},
		{"data parallelism", sizing.Serving{Uncounted: []string{"--data-parallel-size"}}, "", "--data-parallel-size may change how many GPUs a replica takes, and is not counted"},
		{"further nodes", sizing.Serving{Uncounted: []string{"--enable-lora", "--data-parallel-size-local"}}, "", "--data-parallel-size-local may change"},
		{"another option that is not counted", sizing.Serving{Uncounted: []string{"--enable-lora"}}, "2", ""},
	} {
		m := warmModel("m", 1)
		m.Size, m.Model.Serving = small, tt.serving
		w := wordOf([]modelState{m}, gpuFacts{Known: true, FreeKnown: true, Free: 2, Devices: devices(80, 80)}, nil)
		if got := labels([]modelState{m}, w)[FitsPrefix+"m"]; got != tt.label {
			t.Errorf("%s: label %q; want %q", tt.name, got, tt.label)
		}
		s := describe([]modelState{m}, w, answer[storeView]{}, measuredSpeed{}).Models[0]
		if (s.Need != nil) != (tt.label != "") || (s.Fits != nil) != (tt.label != "") || !strings.Contains(s.NeedUnknown, tt.reason) || tt.reason == "" && s.NeedUnknown != "" {
			t.Errorf("%s: need %+v, fits %v, %q; want %q", tt.name, s.Need, s.Fits, s.NeedUnknown, tt.reason)
		}
	}
}
