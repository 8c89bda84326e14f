package measure

import (
	"slices"
	"testing"
)

func TestSplitArgs(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		kept   []string
		gpus   int
		stated bool
	}{
		{"nothing", nil, nil, 1, false},
		{"no flag of ours", []string{"vllm", "serve", "/m", "--api-key", "KEY", "--max-model-len=8192"}, nil, 1, false},
		{"long", []string{"--tensor-parallel-size", "4"}, []string{"--tensor-parallel-size=4"}, 4, true},
		{"joined", []string{"--tensor-parallel-size=4"}, []string{"--tensor-parallel-size=4"}, 4, true},
		{"short", []string{"-tp", "2"}, []string{"--tensor-parallel-size=2"}, 2, true},
		{"short and joined", []string{"-tp=2"}, []string{"--tensor-parallel-size=2"}, 2, true},
		{"underscores", []string{"--tensor_parallel_size=2"}, []string{"--tensor-parallel-size=2"}, 2, true},
		{"a script", []string{"sh", "-c", "exec vllm serve /m --api-key 'KEY' \\\n  --tensor-parallel-size \"2\" && echo"}, []string{"--tensor-parallel-size=2"}, 2, true},
		{"of the environment", []string{"--tensor-parallel-size=$(TP)"}, []string{"--tensor-parallel-size=?"}, 0, true},
		{"nothing behind it", []string{"-tp"}, []string{"--tensor-parallel-size=?"}, 0, true},
		{"zero", []string{"-tp=0"}, []string{"--tensor-parallel-size=?"}, 0, true},
		{"pipeline too", []string{"-tp=2", "--pipeline-parallel-size=2"}, []string{"--tensor-parallel-size=2", "--pipeline-parallel-size=2"}, 0, true},
		{"data too", []string{"-dp", "2"}, []string{"--data-parallel-size=2"}, 0, true},
		{"context too", []string{"-dcp", "2"}, []string{"--decode-context-parallel-size=2"}, 0, true},
		{"another batch", []string{"vllm", "serve", "/m", "-tp", "2", "--max-num-seqs", "8"}, []string{"--tensor-parallel-size=2", otherwise}, 0, true},
		{"no graphs", []string{"sh", "-c", "vllm serve /m --enforce-eager --port 80"}, []string{otherwise}, 0, true},
		{"what is not counted", []string{"--enable-lora", "--api-key", "KEY"}, []string{otherwise}, 0, true},
		{"a file of further ones", []string{"--config", "/etc/vllm.yaml"}, []string{otherwise}, 0, true},
		{"what the page states", []string{"--gpu-memory-utilization", "0.8", "--kv-cache-dtype=fp8", "--max-model-len=auto"}, nil, 1, false},
		{"pipelines of one", []string{"-pp", "1", "-tp", "2"}, []string{"--pipeline-parallel-size=1", "--tensor-parallel-size=2"}, 2, true},
		{"a value of the environment", []string{"org/m", "--port", "$(PORT)"}, []string{otherwise}, 0, true},
		{"words of a command", []string{"sh", "-c", "vllm serve /m `cat /args`"}, []string{otherwise}, 0, true},
		{"a variable of vLLM in a script", []string{"sh", "-c", "export VLLM_USE_V1=1; vllm serve /m"}, []string{otherwise}, 0, true},
		{"another variable in a script", []string{"sh", "-c", "export A=1; exec vllm serve /m -tp 2"}, []string{"--tensor-parallel-size=2"}, 2, true},
		{"options of what runs before", []string{"numactl", "--membind=0", "-tp", "8", "vllm", "serve", "/m"}, nil, 1, false},
		{"the last one counts", []string{"-tp", "2", "-tp", "4"}, []string{"--tensor-parallel-size=2", "--tensor-parallel-size=4"}, 4, true},
	} {
		kept := SplitArgs(nil, tt.args)
		if !slices.Equal(kept, tt.kept) || !slices.Equal(SplitArgs(nil, kept), tt.kept) {
			t.Errorf("%s: %q is kept, and %q of that; want %q", tt.name, kept, SplitArgs(nil, kept), tt.kept)
		}
		if gpus, stated := TensorParallel(kept); gpus != tt.gpus || stated != tt.stated {
			t.Errorf("%s: %d GPUs, stated %t; want %d, %t", tt.name, gpus, stated, tt.gpus, tt.stated)
		}
	}
}

// TestSplitArgsOfCommands: what a container starts has to be vLLM's server, and only that.
func TestSplitArgsOfCommands(t *testing.T) {
	for _, tt := range []struct {
		name          string
		command, args []string
		gpus          int
	}{
		{"vLLM's line", []string{"vllm", "serve"}, []string{"/m", "-tp", "2"}, 2},
		{"over both", []string{"vllm"}, []string{"serve", "/m"}, 1},
		{"with a path", []string{"/opt/venv/bin/vllm", "serve", "/m"}, nil, 1},
		{"the module", []string{"python3", "-m", "vllm.entrypoints.openai.api_server"}, []string{"--model", "/m", "-tp", "4"}, 4},
		{"the module's file", []string{"python3", "/app/vllm/entrypoints/openai/api_server.py", "--model=/m"}, nil, 1},
		{"a wrapper", []string{"/sbin/tini", "--"}, []string{"vllm", "serve", "/m"}, 1},
		{"a script", []string{"sh", "-c"}, []string{"set -e; exec vllm serve /m --port 80"}, 1},
		{"a script of the image", []string{"/entrypoint.sh"}, nil, 0},
		{"a script of the image, with options", []string{"/entrypoint.sh"}, []string{"-tp", "2"}, 0},
		{"another server", []string{"python3", "serve.py"}, []string{"--port", "80"}, 0},
		{"another program's serve", []string{"sglang", "serve", "/m"}, nil, 0},
		{"two of them", []string{"sh", "-c", "vllm serve /a & vllm serve /b"}, nil, 0},
		{"variables before it", []string{"env", "VLLM_ATTENTION_BACKEND=X", "vllm", "serve", "/m"}, nil, 0},
		{"the script's own arguments", []string{"sh", "-c", "vllm serve \"$@\""}, []string{"--", "/m"}, 0},
	} {
		kept := SplitArgs(tt.command, tt.args)
		if again := SplitArgs(nil, kept); !slices.Equal(kept, again) {
			t.Errorf("%s: %q is kept, and %q of that", tt.name, kept, again)
		}
		if gpus, _ := TensorParallel(kept); gpus != tt.gpus {
			t.Errorf("%s: %d GPUs by %q; want %d", tt.name, gpus, kept, tt.gpus)
		}
	}
}

func TestImageVersion(t *testing.T) {
	for image, want := range map[string]string{
		"vllm/vllm-openai:v0.33.0":                        "0.33.0",
		"registry.example:5000/vllm-openai:v0.32.1-cu130": "0.32.1",
		"vllm/vllm-openai:v0.33.0@sha256:0123":            "0.33.0",
		"vllm:0.29":                                       "0.29",
		"vllm:0.33.1+cpu":                                 "0.33.1",
		"0.33.0":                                          "0.33.0",
		"vllm/vllm-openai:latest":                         "",
		"vllm/vllm-openai":                                "",
		"registry.example:5000/vllm-openai":               "",
		"ours:25.01-py3":                                  "",
		"ours:v0.33.0rc1":                                 "",
		"ours:0.33.0.1":                                   "",
		"ours:0..1":                                       "",
		"ours:v0.":                                        "",
		"":                                                "",
	} {
		got := ImageVersion(image)
		if got != want || ImageVersion(got) != want {
			t.Errorf("%q: %q, and of that %q; want %q", image, got, ImageVersion(got), want)
		}
	}
}

// FuzzSplitArgs: of a command line, nothing but flags of ours and numbers is kept.
func FuzzSplitArgs(f *testing.F) {
	f.Add("vllm serve /m --tensor-parallel-size 2 -pp=$(PP) --api-key KEY")
	f.Fuzz(func(t *testing.T, text string) {
		kept := SplitArgs(nil, []string{text})
		for _, k := range [][]string{kept, SplitArgs([]string{text}, nil)} {
			if again := SplitArgs(nil, k); !slices.Equal(k, again) {
				t.Errorf("%q: %q is kept, and %q of that", text, k, again)
			}
		}
		if gpus, _ := TensorParallel(kept); gpus < 0 || gpus > 1<<16 {
			t.Errorf("%q: %d GPUs", text, gpus)
		}
		if v := ImageVersion(text); len(v) > 11 || ImageVersion(v) != v {
			t.Errorf("%q: %q", text, v)
		}
	})
}
