package serveline

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/gpu/sizing"
)

// kinds are how vLLM reads the values of the options that count.
func kinds() map[string]string {
	return map[string]string{
		"--tensor-parallel-size": "whole", "--pipeline-parallel-size": "whole", "--nnodes": "whole", "--max-num-seqs": "whole", "--max-num-batched-tokens": "count",
		"--max-model-len": "length", "--gpu-memory-utilization": "number", "--cpu-offload-gb": "number", "--kv-cache-dtype": "text",
		"--quantization": "text", "--dtype": "text", "--enforce-eager": "flag", "--enable-chunked-prefill": "flag", "--async-scheduling": "flag",
		"--enable-prefix-caching": "flag", "--config": "other",
	}
}

// TestReadAgainstVLLM: vLLM's own parser reads the same out of a line.
func TestReadAgainstVLLM(t *testing.T) {
	source, python := os.Getenv("STOKER_TEST_VLLM"), os.Getenv("STOKER_TEST_PYTHON")
	if source == "" || python == "" {
		t.Skip("STOKER_TEST_VLLM or STOKER_TEST_PYTHON is not set: lines are not held against vLLM's parser; `make test` fetches it")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "serve.yaml")
	const text = "max_num_seqs: 8\nmax-model-len: 1k\nenforce-eager: true\nasync-scheduling: false\ngpu_memory_utilization: 0.5\nkv-cache-dtype: fp8\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	type option struct {
		Names []string `json:"names"`
		Kind  string   `json:"kind"`
	}
	var asked struct {
		Options []option   `json:"options"`
		Lines   [][]string `json:"lines"`
	}
	for _, o := range table() {
		kind := kinds()[o.names[0]]
		if (kind == "") != (o.effect != effectCounted) {
			t.Fatalf("%s: how vLLM reads its value is not said", o.names[0])
		}
		if kind == "" {
			kind = "other"
		}
		asked.Options = append(asked.Options, option{o.names, kind})
	}
	for _, line := range []string{
		"m", "m -tp 2", "m -tp=2 -pp 3", "m --tensor_parallel_size=4", "m --tensor-parallel 4", "m --pipeline-p 2", "m --nnodes 2 -pp 2", "m -n 2 --node-rank 1 -r 1", "m -tp 2 -tp 4",
		"m --max-model-len 25.6k", "m --max-model-len 1K", "m --max-model-len -1", "m --max-model-len auto", "m --max-model-len=AUTO", "m --max_model_len 32768",
		"m --max-num-batched-tokens 8k --max-num-seqs 16", "m --max_num_seqs=16", "m --max-num-se 16",
		"m --gpu-memory-utilization .9", "m --device-memory-utilization 0.7", "m --gpu-mem 0.8", "m --cpu-offload-gb 4", "m --cpu-offload-g 1.5",
		"m -q fp8", "m --quantization=fp8 --kv-cache-dtype fp8_e4m3 --dtype bfloat16", "m --kv_cache_dtype=nvfp4",
		"m --enforce-eager", "m --no-enforce-eager", "m --enforce-eager --no-enforce-eager", "m --enforce_eager",
		"m --no-enable-chunked-prefill", "m --disable-chunked-prefill", "m --enable-chunked-prefill", "m --no-async-scheduling", "m --disable-prefix-caching --no-enable-prefix-caching",
		"m --port 8000 --served-model-name x -tp 2", "m --hf-overrides.a.b 3 -tp 2", "m -O3 --max-num-seqs 2", "m -O 2 -tp 2", "-tp 2",
		"m --config " + config, "m --max-num-seqs 9 --config " + config + " --no-enforce-eager", "m --config " + config + " --max-model-len 2k",
		// What both refuse.
		"m --max-num-seqs", "m --max-num-seqs x", "m --max-num-seqs 1.5", "m --max-num-seqs --enforce-eager", "m --enforce-eager=true", "m --max-model-len 1.5K",
		"m --max-model-len long", "m --max-num-batched-tokens 1kk", "m --gpu-memory-utilization much",
	} {
		asked.Lines = append(asked.Lines, append([]string{"serve"}, strings.Fields(line)...))
	}
	input, err := json.Marshal(asked)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/parse.py", source)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE=1"}
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	var answers []map[string]any
	if err := json.Unmarshal(output, &answers); err != nil || len(answers) != len(asked.Lines) {
		t.Fatalf("%d answers, %v", len(answers), err)
	}
	for i, words := range asked.Lines {
		got, err := Read(sizing.Serving{}, words, os.ReadFile)
		if (err != nil) != (answers[i] == nil) {
			t.Errorf("%q: %v; vLLM has %v", words, err, answers[i])
		}
		if err != nil || answers[i] == nil {
			continue
		}
		got.Uncounted = nil
		if diff := cmp.Diff(asServing(t, answers[i]), got); diff != "" {
			t.Errorf("%q (-vLLM +here):\n%s", words, diff)
		}
	}
}

// asServing is what vLLM's parser found.
func asServing(t *testing.T, values map[string]any) sizing.Serving {
	t.Helper()
	s := sizing.Serving{TensorParallel: 1}
	for name, v := range values {
		number, _ := v.(float64)
		word, _ := v.(string)
		on, _ := v.(bool)
		switch name {
		case "--tensor-parallel-size":
			s.TensorParallel = int(number)
		case "--pipeline-parallel-size":
			s.PipelineParallel = int(number)
		case "--nnodes":
			s.Nodes = int(number)
		case "--max-num-seqs":
			s.MaxNumSeqs = int64(number)
		case "--max-num-batched-tokens":
			s.MaxNumBatchedTokens = int64(number)
		case "--max-model-len":
			s.MaxModelLen = int64(number)
		case "--gpu-memory-utilization":
			s.GPUMemoryUtilization = number
		case "--cpu-offload-gb":
			s.CPUOffloadGB = number
		case "--kv-cache-dtype":
			s.KVCacheDtype = word
		case "--quantization":
			s.Quantization = word
		case "--dtype":
			s.Dtype = word
		case "--enforce-eager":
			s.EnforceEager = on
		case "--enable-chunked-prefill":
			s.WholePrompts = !on
		case "--async-scheduling":
			s.OneBatch = !on
		case "--enable-prefix-caching":
			s.NoPrefixCaching = !on
		default:
			t.Fatalf("%s is not compared", name)
		}
	}
	return s
}
