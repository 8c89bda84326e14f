package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A server that was sent a credential may repeat it in a config.json, whose texts fit
// repeats where it does not understand them.
func TestFitRepeatsNoSecret(t *testing.T) {
	t.Setenv("HF_TOKEN", leaked)
	dir := t.TempDir()
	config := strings.ReplaceAll(`{"architectures":["X"],"model_type":"X","hidden_size":"X","torch_dtype":"X","num_attention_heads":4,"quantization_config":{"quant_method":"X"}}`, "X", leaked)
	header := `{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}`
	weights := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header+"00"...)
	for name, content := range map[string][]byte{"config.json": []byte(config), "model.safetensors": weights} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range []string{"table", "json"} {
		code, stdout, stderr := call(t, "fit", dir, "--gpus", "simulated:dgxh200", "-o", format)
		if code != exitOK || !strings.Contains(stdout, "(hidden)") || findLeak(stdout+stderr) != "" {
			t.Errorf("exit code %d, %s\n%s", code, stdout, stderr)
		}
		if format == "json" && !json.Valid([]byte(stdout)) {
			t.Error("it is no JSON")
		}
	}
}
