package serveline

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/gpu/sizing"
)

func TestRead(t *testing.T) {
	files := map[string]string{
		"small.yaml":  "max_num_seqs: 8\nmax-model-len: 1k\nenforce-eager: true\nserved-model-name: [a, b]\ngpu-memory-utilization: 0.5\nasync-scheduling: false\n",
		"lora.yaml":   "enable-lora: true\nspeculative-config: {model: x}\nenable-eplb: false\n",
		"broken.yaml": "- one\n- two\n",
		"large.yaml":  strings.Repeat("#", maxConfig+1),
	}
	open := func(name string) ([]byte, error) {
		text, ok := files[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return []byte(text), nil
	}
	for _, tt := range []struct {
		line string
		want sizing.Serving
	}{
		{"", sizing.Serving{}},
		{"vllm serve org/model", sizing.Serving{TensorParallel: 1}},
		{"serve org/model --max-num-seqs 2", sizing.Serving{TensorParallel: 1, MaxNumSeqs: 2}},
		{"vllm serve /model -tp 2 --max-num-seqs 16 --enforce-eager", sizing.Serving{TensorParallel: 2, MaxNumSeqs: 16, EnforceEager: true}},
		{"/usr/bin/vllm serve /model --tensor-parallel-size=4 -pp=2", sizing.Serving{TensorParallel: 4, PipelineParallel: 2}},
		{"python3 -m vllm.entrypoints.openai.api_server --model org/model --tensor_parallel_size 8", sizing.Serving{TensorParallel: 8}},
		{"CUDA_VISIBLE_DEVICES=0 VLLM_PP_LAYER_PARTITION=1,2 vllm serve x -tp 2", sizing.Serving{TensorParallel: 2, Uncounted: []string{"VLLM_PP_LAYER_PARTITION"}}},
		{"--max_num_batched_tokens 25.6k --max-model-len=1K", sizing.Serving{MaxNumBatchedTokens: 25600, MaxModelLen: 1024}},
		{"--max-model-len -1", sizing.Serving{MaxModelLen: sizing.AutoLength}},
		{"--max-model-len AUTO", sizing.Serving{MaxModelLen: sizing.AutoLength}},
		{"--gpu-memory-util 0.85 --device-memory-utilization 0.8", sizing.Serving{GPUMemoryUtilization: 0.8}}, // the last wins
		{"--tensor-parallel 2", sizing.Serving{TensorParallel: 2}},
		{"-q fp8 --kv-cache-dtype fp8_e4m3 --dtype bfloat16", sizing.Serving{Quantization: "fp8", KVCacheDtype: "fp8_e4m3", Dtype: "bfloat16"}},
		{"--quantization None --cpu-offload-gb 4.5", sizing.Serving{CPUOffloadGB: 4.5}},
		{"--enforce-eager --no-enforce-eager", sizing.Serving{}},
		{"--no-enable-chunked-prefill --no-async-scheduling --no-enable-prefix-caching", sizing.Serving{WholePrompts: true, OneBatch: true, NoPrefixCaching: true}},
		{"--disable-chunked-prefill --enable-chunked-prefill --disable-prefix-caching", sizing.Serving{NoPrefixCaching: true}},
		{"--enable-prefix-caching --enable-chunked-prefill --async-scheduling", sizing.Serving{}},

		// What changes no memory, and what is said by its default.
		{"--served-model-name a b --port 8000 --api-key k --trust-remote-code --seed 0 --tool-call-parser hermes --enable-auto-tool-choice", sizing.Serving{}},
		{"--block-size 16 --load-format=auto --distributed-executor-backend mp -dp 1 --nnodes 1 --no-enable-lora --no-enable-expert-parallel -O2 -O 2 --swa-bounded-replay", sizing.Serving{Nodes: 1}},
		{"--default-chat-template-kwargs.enable_thinking false", sizing.Serving{}},
		{"--seed -1 --uvicorn-log-level -.5 --seed=-2", sizing.Serving{}}, // numbers are no options

		// What may change it.
		{"--enable-lora --max-loras 4 --enable-lora", sizing.Serving{Uncounted: []string{"--enable-lora", "--max-loras"}}},
		{"--speculative-config {\"model\":\"x\"} -sc.num_speculative_tokens 3", sizing.Serving{Uncounted: []string{"--speculative-config", "-sc.num_speculative_tokens"}}},
		{"--compilation-config.cudagraph_mode NONE --hf-overrides={}", sizing.Serving{Uncounted: []string{"--compilation-config.cudagraph_mode", "--hf-overrides"}}},
		{"--distributed-executor-backend ray", sizing.Serving{Uncounted: []string{"--distributed-executor-backend"}}}, // it may be of several machines
		{"-dp 2 --block-size 32 -O3 -O0 --no-swa-bounded-replay", sizing.Serving{Uncounted: []string{"--data-parallel-size", "--block-size", "--optimization-level", "--no-swa-bounded-replay"}}},
		{"--option-of-tomorrow 5 -zz --max-num", sizing.Serving{Uncounted: []string{"--option-of-tomorrow", "-zz", "--max-num"}}},
		{"--enable-custom-all-reduce", sizing.Serving{}},
		{"--disable-custom-all-reduce", sizing.Serving{Uncounted: []string{"--disable-custom-all-reduce"}}},

		// A file of options comes first.
		{"vllm serve x --config small.yaml", sizing.Serving{TensorParallel: 1, MaxNumSeqs: 8, MaxModelLen: 1000, EnforceEager: true, GPUMemoryUtilization: 0.5, OneBatch: true}},
		{"vllm serve x --max-num-seqs 9 --config small.yaml --no-enforce-eager", sizing.Serving{TensorParallel: 1, MaxNumSeqs: 9, MaxModelLen: 1000, GPUMemoryUtilization: 0.5, OneBatch: true}},
		{"--config lora.yaml", sizing.Serving{Uncounted: []string{"--enable-lora", "--speculative-config"}}},
		{"--config=small.yaml", sizing.Serving{Uncounted: []string{"--config="}}}, // vLLM does not read it so
		{"--config gone.yaml -tp 2", sizing.Serving{TensorParallel: 2, Uncounted: []string{"--config (file does not exist)"}}},
		{"--config broken.yaml", sizing.Serving{Uncounted: []string{"--config (it is no mapping of names and values in YAML)"}}},
		{"--config large.yaml", sizing.Serving{Uncounted: []string{"--config (it is larger than 1048576 bytes)"}}},
	} {
		got, err := Read(sizing.Serving{}, strings.Fields(tt.line), open)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n(-want +got)\n%s", tt.line, err, diff)
		}
	}
	// What was there stays, unless the line says otherwise.
	before := sizing.Serving{TensorParallel: 4, MaxModelLen: 100, Uncounted: []string{"--x"}}
	got, err := Read(before, []string{"-tp", "2", "--enable-lora"}, nil)
	want := sizing.Serving{TensorParallel: 2, MaxModelLen: 100, Uncounted: []string{"--x", "--enable-lora"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil || len(before.Uncounted) != 1 {
		t.Errorf("%v\n(-want +got)\n%s", err, diff)
	}
	if got, err := Read(sizing.Serving{}, []string{"--config", "x.yaml"}, nil); err != nil || len(got.Uncounted) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestReadRefuses: values that vLLM refuses, each of them.
func TestReadRefuses(t *testing.T) {
	for line, want := range map[string][]string{
		"--max-num-seqs many":                                    {`--max-num-seqs "many"`, "1 or more"},
		"--max-num-seqs 0 -tp x":                                 {`--max-num-seqs "0"`, `-tp "x"`},
		"--max-num-seqs":                                         {"--max-num-seqs", "it takes a value"},
		"--max-num-seqs --enforce-eager":                         {"--max-num-seqs", "it takes a value"},
		"--enforce-eager=true":                                   {`--enforce-eager "true"`, "it takes no value"},
		"--max-model-len 1.5K":                                   {"like 4096, 4k or 4K, or auto"},
		"--max-model-len 0":                                      {"or auto"},
		"--max-num-batched-tokens 99999999T":                     {"whole number"},
		"--gpu-memory-utilization 1.5":                           {"at most 1"},
		"--gpu-memory-utilization NaN":                           {"at most 1"},
		"--cpu-offload-gb -3":                                    {`--cpu-offload-gb "-3"`, "not negative"},
		"--dtype int8":                                           {`"int8"`, "bfloat16"},
		"--max-num-seqs 256 --max-num-batched-tokens 128":        {"128 tokens", "256 requests"},
		"--max_num_seqs=8 --max-num-batched-tokens=4 --dtype=xx": {"4 tokens", `"xx"`},
	} {
		_, err := Read(sizing.Serving{}, strings.Fields(line), nil)
		if err == nil {
			t.Errorf("%s is not refused", line)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", line, err, part)
			}
		}
	}
}

// TestReadRepeatsNoSecret: whatever a word holds beside a name, neither doubts nor errors repeat it.
func TestReadRepeatsNoSecret(t *testing.T) {
	const secret = "sk-s3cr3t"
	for _, words := range [][]string{
		{"--api-key", secret},
		{"--api-key=" + secret},
		{"--api-key " + secret},
		{"--api_key " + secret},
		{"--api-key\t" + secret},
		{"--api-key:" + secret},
		{"--api-key", "-" + secret},
		{"--api-key", "--" + secret},
		{"--api-key", "--a." + secret},
		{"--hf-token", "-" + secret},
		{"-tp 2 --api-key " + secret},
		{"--hf-overrides.a b --api-key " + secret},
		{"--no-such-option " + secret},
		{"-x " + secret},
		{"--max-model-len", "1k --api-key " + secret},
		{"--max-model-len=1k --api-key=" + secret},
		{"--max-model-len 1k --api-key=" + secret},
		{"--dtype", "auto --api-key " + secret},
		{"--quantization", "fp8 --api-key=" + secret},
		{"--kv-cache-dtype=fp8 --api-key " + secret},
		{"--enforce-eager=1 --api-key " + secret},
		{"-O3 --api-key " + secret},
		{"--enable-lora --api-key " + secret},
		{"VLLM_X --api-key " + secret + "=1", "vllm", "serve", "m"},
		{"VLLM_API_KEY=" + secret, "serve", "m"},
		{"--config=x --api-key " + secret},
		{"--config", "x --api-key " + secret},
		{"--config", "keys.yaml"},
		{"serve m --api-key " + secret},
	} {
		got, err := Read(sizing.Serving{}, words, func(name string) ([]byte, error) {
			if name == "keys.yaml" {
				return []byte("api-key " + secret + ": 1\nno-such " + secret + ": 1\nmax-num-seqs: 8 " + secret + "\napi-key: -" + secret + "\n"), nil
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		})
		text := fmt.Sprintf("%+v", got)
		if err != nil {
			text += err.Error()
		}
		if strings.Contains(text, "s3cr3t") {
			t.Errorf("%q: %s", words, text)
		}
	}
}

func TestParseCount(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, " 4096 ": 4096, "1k": 1000, "1K": 1024, "25.6k": 25600, "2m": 2e6, "2M": 2 << 20, "1g": 1e9, "1G": 1 << 30, "1t": 1e12, "1T": 1 << 40, "1.5k": 1500,
	} {
		if got, err := ParseCount(text); got != want || err != nil {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "k", "0", "-1", "1.5", "1.5K", "1kk", "1e3", "0x10", "1e3k", "NaNk", "infk", "9223372036854775807k", "0.0001k"} {
		if got, err := ParseCount(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("vllm serve x -tp 2 --max-num-seqs=1k --config c -O3 --a.b c", "max-num-seqs: 3\nenable-lora: [1]\n")
	f.Add("--no- -- - --max-model-len -1 --=x", "a: {b: null}\n")
	f.Fuzz(func(t *testing.T, line, file string) {
		s, err := Read(sizing.Serving{}, strings.Fields(line), func(string) ([]byte, error) {
			if file == "" {
				return nil, errors.New("none")
			}
			return []byte(file), nil
		})
		if err == nil && s.Check() != nil {
			t.Errorf("%+v is read, and refused: %v", s, s.Check())
		}
	})
}
