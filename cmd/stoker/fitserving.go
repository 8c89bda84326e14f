package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stoker-project/stoker/gpu/sizing"
	"github.com/stoker-project/stoker/gpu/sizing/serveline"
)

// addServing adds the flags that are arguments of vLLM, which takes their names with underscores, too.
func (f *fitFlags) addServing(flags *pflag.FlagSet) {
	flags.IntVar(&f.serving.TensorParallel, "tensor-parallel", 0, "`N` GPUs share each layer, so a replica takes as many (default: every size that these GPUs allow)")
	flags.IntVar(&f.serving.PipelineParallel, "pipeline-parallel-size", 0, "the layers are divided into `N` stages, each on GPUs of its own (default: 1)")
	flags.IntVar(&f.serving.Nodes, "nnodes", 0, "a replica's GPUs are divided over `N` nodes, of which this is one (default: 1)")
	flags.StringVar(&f.maxModelLen, "max-model-len", "", "the longest request has `N` tokens, like 32768 or 32k; auto is the longest that fits (default: the model's own length)")
	flags.Float64Var(&f.serving.GPUMemoryUtilization, "gpu-memory-utilization", 0,
		"vLLM claims this `FRACTION` of a GPU's memory, above 0 and at most 1 (default: 0.92, and 0.9 of vLLM 0.19)")
	flags.StringVar(&f.serving.KVCacheDtype, "kv-cache-dtype", "auto", "the KV cache has this `TYPE`, like auto, bfloat16 or fp8")
	flags.Int64Var(&f.serving.MaxNumSeqs, "max-num-seqs", 0, "a batch has `N` requests at most (default: by the GPU)")
	flags.StringVar(&f.maxNumBatchedTokens, "max-num-batched-tokens", "", "a batch has `N` tokens at most, like 8192 or 8k (default: by the GPU)")
	flags.BoolVar(&f.serving.EnforceEager, "enforce-eager", false, "do without CUDA graphs")
	flags.StringVar(&f.serving.Quantization, "quantization", "", "quantize the weights by this `METHOD` while they are loaded, like fp8 (default: as config.json says)")
	flags.Float64Var(&f.serving.CPUOffloadGB, "cpu-offload-gb", 0, "this many `GIB` of each GPU's weights stay in the memory of the CPU")
	flags.StringVar(&f.serving.Dtype, "dtype", "auto", "vLLM computes in this `TYPE`: auto, bfloat16, float16 or float32")
	flags.StringVar(&f.serving.VLLMVersion, "vllm-version", sizing.DefaultVLLMVersion, "the rules are those of this `VERSION` of vLLM, from 0.19 on")
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		switch name = strings.ReplaceAll(name, "_", "-"); name {
		case "tensor-parallel-size":
			name = "tensor-parallel"
		case "pipeline-parallel":
			name = "pipeline-parallel-size"
		}
		return pflag.NormalizedName(name)
	})
}

// serveLine is the arguments before -- and the command line of vLLM behind it.
func serveLine(cmd *cobra.Command, args []string) (own, line []string) {
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		return args[:at], args[at:]
	}
	return args, nil
}

// checkServing refuses what would otherwise mean the default, and reads the command line of vLLM.
func (f *fitFlags) checkServing(cmd *cobra.Command, line []string) error {
	var errs []error
	refuse := func(flag string, bad bool, format string, value any) {
		if cmd.Flags().Changed(flag) && bad {
			errs = append(errs, fmt.Errorf("--"+flag+" "+format, value))
		}
	}
	refuse("tensor-parallel", f.serving.TensorParallel < 1, "%d is too few; it takes at least one GPU", f.serving.TensorParallel)
	refuse("pipeline-parallel-size", f.serving.PipelineParallel < 1, "%d is too few; it takes at least one stage", f.serving.PipelineParallel)
	refuse("nnodes", f.serving.Nodes < 1, "%d is too few; it takes at least one node", f.serving.Nodes)
	refuse("max-num-seqs", f.serving.MaxNumSeqs < 1, "%d is too few; it takes at least one request", f.serving.MaxNumSeqs)
	u := f.serving.GPUMemoryUtilization
	refuse("gpu-memory-utilization", !(u > 0 && u <= 1), "%v is no such part; it takes a fraction above 0 and at most 1", u) // so that NaN is refused
	refuse("cpu-offload-gb", !(f.serving.CPUOffloadGB >= 0), "%v is no size; it takes GiB, not negative", f.serving.CPUOffloadGB)
	for _, count := range []struct {
		flag, text string
		parse      func(string) (int64, error)
		into       *int64
	}{
		{"max-model-len", f.maxModelLen, serveline.ParseLength, &f.serving.MaxModelLen},
		{"max-num-batched-tokens", f.maxNumBatchedTokens, serveline.ParseCount, &f.serving.MaxNumBatchedTokens},
	} {
		if cmd.Flags().Changed(count.flag) {
			n, err := count.parse(count.text)
			if err != nil {
				errs = append(errs, fmt.Errorf("--%s %q: %w", count.flag, count.text, err))
			}
			*count.into = n
		}
	}
	if err := sizing.CheckVLLMVersion(f.serving.VLLMVersion); err != nil {
		errs = append(errs, fmt.Errorf("--vllm-version: %w", err))
	}
	if len(errs) == 0 { // of flags that are wrong nothing more is to be said
		if err := f.serving.Check(); err != nil {
			return err
		}
	}
	serving, err := serveline.Read(f.serving, line, readServeConfig)
	if err != nil && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("vllm serve: %w", err))
	}
	f.serving = serving
	return errors.Join(errs...)
}

// maxServeConfig bounds what is read of a file that vLLM's --config names.
const maxServeConfig = 1<<20 + 1

func readServeConfig(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxServeConfig))
	return data, errors.Join(err, f.Close())
}

// warnUncounted writes which arguments make the answer an estimate. Serving has the type of the cache that was asked for:
// that of the output is what auto stands for, which vLLM has no name for where it is float32.
func (c *cli) warnUncounted(out fitOutput, serving sizing.Serving) {
	if len(out.Uncounted) > 0 {
		fmt.Fprintf(c.stderr, "stoker: warning: fit %s: the answer is an estimate, for what may change the memory is not counted: %s; vLLM itself decides\n",
			out.Model, strings.Join(out.Uncounted, ", "))
	}
	if doubt := sizing.DoubtKVCacheDtype(serving.KVCacheDtype); doubt != "" {
		fmt.Fprintf(c.stderr, "stoker: warning: fit %s: the answer is an estimate: %s; vLLM itself decides\n", out.Model, doubt)
	}
}
