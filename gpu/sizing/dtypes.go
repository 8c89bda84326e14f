package sizing

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// readTypes finds the types that vLLM computes and caches in.
func readTypes(a *Architecture, c config) error {
	insteadOfFloat32, archErr := float32Instead(c)
	dtype, dtypeErr := c.text("torch_dtype")
	if dtype == "" && dtypeErr == nil {
		dtype, dtypeErr = c.text("dtype")
	}
	switch strings.TrimPrefix(dtype, "torch.") {
	case "bfloat16":
		a.DType = "bfloat16"
	case "float16", "half":
		a.DType = "float16"
	case "float32", "float":
		a.DType = insteadOfFloat32
	case "", "auto":
		a.DType, a.dtypeLeftOut = insteadOfFloat32, dtypeErr == nil
	default:
		a.DType = "bfloat16"
		a.estimate("dtype %q is not known; the model is counted as bfloat16", dtype)
	}
	a.KVCacheDType = a.DType

	quantization, err := c.object("quantization_config")
	if err == nil && quantization == nil {
		quantization, err = c.object("compression_config") // an older name for compressed-tensors'
	}
	if err == nil && quantization != nil {
		err = readQuantization(a, in(quantization))
	}
	return errors.Join(archErr, dtypeErr, err)
}

// float32Instead is the type in which vLLM computes models of float32: bfloat16 where they generate, float16 where they
// are pooled (vllm/config/model.py, _resolve_auto_dtype).
func float32Instead(c config) (string, error) {
	architectures, err := c.strings("architectures")
	pooled := func(name string) bool {
		return !strings.HasSuffix(name, "ForCausalLM") && !strings.HasSuffix(name, "ForConditionalGeneration") && !strings.HasSuffix(name, "LMHeadModel")
	}
	if len(architectures) > 0 && !slices.ContainsFunc(architectures, func(name string) bool { return !pooled(name) }) {
		return "float16", err
	}
	return "bfloat16", err
}

// resolveDType takes the type from the weights where config.json names none: the one of their types that all others can
// be cast to (vllm/transformers_utils/model_arch_config_convertor.py, get_torch_dtype).
func (a *Architecture) resolveDType(w Weights) {
	was := a.DType
	if !a.dtypeLeftOut || w.ByDType["F32"] > 0 || w.ByDType["F64"] > 0 {
		return
	}
	switch {
	case w.ByDType["BF16"] > 0:
		a.DType = "bfloat16"
	case w.ByDType["F16"] > 0:
		a.DType = "float16"
	}
	if a.KVCacheDType == was {
		a.KVCacheDType = a.DType
	}
}

func readQuantization(a *Architecture, q config) error {
	for _, name := range []string{"quant_method", "quant_algo"} {
		method, err := q.text(name)
		if err != nil {
			return err
		}
		if a.Quantization == "" {
			a.Quantization = strings.ToLower(method)
		}
	}
	if err := readOrder(a, q); err != nil {
		return err
	}
	if a.Quantization == "" {
		a.Quantization = "unknown"
	}
	var err error
	if a.QuantizationBits, err = quantizationBits(q); err != nil {
		return err
	}
	if a.quantized, err = readBlocks(q); err != nil {
		return err
	}
	// ModelOpt nests once more in some versions.
	if inner, err := q.object("quantization"); err != nil {
		return err
	} else if inner != nil {
		q.levels = append(q.levels, inner)
	}
	algo, err := q.text("kv_cache_quant_algo")
	if err != nil {
		return err
	}
	scheme, err := q.object("kv_cache_scheme")
	if err != nil {
		return err
	}
	bits, err := in(scheme).number("num_bits")
	if err != nil {
		return err
	}
	switch {
	case strings.EqualFold(algo, "fp8"), bits == 8:
		a.KVCacheDType = "fp8"
	case algo != "" && !strings.EqualFold(algo, "none"), bits != 0:
		a.KVCacheDType = "fp8"
		a.estimate("the KV cache is quantized in a way that is not known here; it is counted as fp8")
	}
	return nil
}

// quantizationBits is the width of one weight, 0 where the config does not say.
func quantizationBits(q config) (uint64, error) {
	bits, err := q.number("bits", "w_bit")
	if bits > 0 || err != nil {
		return bits, err
	}
	groups, err := q.object("config_groups") // compressed-tensors
	if err != nil {
		return 0, err
	}
	for _, raw := range groups {
		var group struct {
			Weights struct {
				Bits json.Number `json:"num_bits"`
			} `json:"weights"`
		}
		if json.Unmarshal(raw, &group) != nil {
			continue // only counted for the number of parameters
		}
		if n, err := group.Weights.Bits.Int64(); err == nil && n > 0 && n <= 32 {
			bits = max(bits, uint64(n))
		}
	}
	return bits, nil
}

// quantizedBlocks are the sizes of what one scale of quantized weights is for.
type quantizedBlocks struct{ blockOut, blockIn, group uint64 }

func readBlocks(q config) (b quantizedBlocks, err error) {
	blocks, err := q.numbers("weight_block_size")
	if err != nil {
		return b, err
	}
	if len(blocks) == 2 {
		b.blockOut, b.blockIn = blocks[0], blocks[1]
	}
	if raw, ok := q.get("group_size"); ok && string(raw) != "-1" { // -1: one for a whole column
		if b.group, err = q.number("group_size", "q_group_size"); err != nil {
			return b, err
		}
	}
	groups, err := q.object("config_groups") // compressed-tensors
	if err != nil {
		return b, err
	}
	for _, raw := range groups {
		var group struct {
			Weights struct {
				Group json.Number `json:"group_size"`
			} `json:"weights"`
		}
		if json.Unmarshal(raw, &group) != nil {
			continue
		}
		if n, err := group.Weights.Group.Int64(); err == nil && n > 0 && n <= maxNumber {
			b.group = max(b.group, uint64(n))
		}
	}
	return b, nil
}
