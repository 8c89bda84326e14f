package sizing

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MXFP4 experts as vLLM's kernels for them want it (vllm/model_executor/layers/fused_moe/oracle/mxfp4.py,
// mxfp4_round_up_hidden_size_and_intermediate_size): both sizes are filled up to whole tiles.
const (
	mxfp4HiddenTile       = 256
	mxfp4IntermediateTile = 128
)

// mxfp4Padding is what filling up adds on each GPU.
func (m Model) mxfp4Padding(tp uint64) uint64 {
	hidden, width := m.Architecture.HiddenSize, m.Architecture.ExpertIntermediate/tp
	if m.Weights.MXFP4Bytes == 0 || hidden == 0 || width == 0 {
		return 0
	}
	filled := float64(mul(ceilDiv(hidden, mxfp4HiddenTile), mxfp4HiddenTile)) / float64(hidden) *
		float64(mul(ceilDiv(width, mxfp4IntermediateTile), mxfp4IntermediateTile)) / float64(width)
	return uint64(float64(m.Weights.MXFP4Bytes/tp) * (filled - 1))
}

// split is a dimension of quantized matrices that tensor parallelism divides into parts, each of which must be a multiple
// of block: scales are kept for blocks, and a kernel reads whole ones.
type split struct {
	size, block uint64
	// heads: the dimension is so many KV heads, of which a GPU gets at least one.
	heads uint64
	// what names the matrices, why says in vLLM's words what the block is.
	what, why string
	// always: vLLM asks it of one GPU, too.
	always bool
}

// part is the part of one of tp GPUs.
func (s split) part(tp uint64) uint64 {
	if s.heads > 0 && tp > s.heads {
		return s.size / s.heads
	}
	return s.size / tp
}

// maxSplits bounds the kinds of dimensions: models have a few, and a file may name many.
const maxSplits = 100

// addSplits remembers the dimensions of a quantized matrix, each once.
func (c *counter) addSplits(t Tensor) {
	layer, last, ok := cutLast(t.Name)
	if !ok || len(t.Shape) != 2 || c.arch.Quantization == "" {
		return
	}
	columns, rows := hasName(layer, columnParallel()...), hasName(layer, rowParallel()...)
	if !columns && !rows {
		return
	}
	q := c.arch.quantized
	s := split{what: layer[strings.LastIndexByte(layer, '.')+1:]}
	experts := strings.Contains(layer, ".experts.")
	switch {
	case last == "weight" && strings.HasPrefix(t.DType, "F8_") && q.blockOut > 0 && columns:
		s.size, s.block, s.why = t.Shape[0], q.blockOut, "the output of weights, by the quantization's block_n"
		s.always = experts
	case last == "weight" && strings.HasPrefix(t.DType, "F8_") && q.blockIn > 0 && rows:
		s.size, s.block, s.why = t.Shape[1], q.blockIn, "the input of weights, by the quantization's block_k"
	case last == "qweight" && c.arch.Quantization == "awq" && columns:
		s.size, s.block, s.why = mul(t.Shape[1], 8), 8, "the output of weights, packed eight to a number"
	case last == "qweight" && c.arch.Quantization == "awq" && rows && q.group > 0:
		s.size, s.block, s.why = t.Shape[0], q.group, "the input of weights, by the quantization's group_size"
	case last == "qweight" && c.arch.Quantization == "gptq" && rows && q.group > 0 && c.arch.QuantizationBits > 0:
		s.size, s.block, s.why = mul(t.Shape[0], 32)/c.arch.QuantizationBits, q.group, "the input of weights, by the quantization's group_size"
	case last == "weight_packed" && rows && q.group > 0 && c.arch.QuantizationBits > 0:
		s.size, s.block, s.why = mul(t.Shape[1], 32)/c.arch.QuantizationBits, q.group, "the input of weights, by the quantization's group_size"
	default:
		return
	}
	if hasName(layer, "k_proj", "v_proj") {
		s.heads = c.arch.KVHeads
	}
	if len(c.w.splits) < maxSplits && !slices.ContainsFunc(c.w.splits, func(o split) bool {
		return o.size == s.size && o.block == s.block && o.heads == s.heads && o.why == s.why && o.always == s.always
	}) {
		c.w.splits = append(c.w.splits, s)
	}
}

// columnParallel are the matrices whose output vLLM divides among GPUs, rowParallel those whose input it divides.
func columnParallel() []string {
	return []string{"q_proj", "k_proj", "v_proj", "qkv_proj", "q_b_proj", "kv_b_proj", "gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "fc1"}
}

func rowParallel() []string { return []string{"o_proj", "down_proj", "w2", "fc2"} }

func cutLast(name string) (before, last string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

// refusal tells why vLLM cannot load the quantized weights on so many GPUs; "" if it can.
func (w Weights) refusal(tp int) string {
	for _, s := range w.splits {
		if tp == 1 && !s.always {
			continue
		}
		if part := s.part(uint64(tp)); part%s.block != 0 || s.heads == 0 && s.size%uint64(tp) != 0 {
			return fmt.Sprintf("tensorParallel is %d, which makes parts of %d of each %s's %d; vLLM refuses what is no multiple of %d (%s)",
				tp, part, s.what, s.size, s.block, s.why)
		}
	}
	return ""
}

// refusal tells why vLLM cannot start the model on so many GPUs, and on how many it can; "" if it can.
func (m Model) refusal(tp int) string {
	refused := func(tp int) string {
		if why := m.Architecture.refusal(tp); why != "" {
			return why
		}
		return m.Weights.refusal(tp)
	}
	why := refused(tp)
	if why == "" || tp < 1 {
		return why
	}
	var able []string
	for n := 1; n <= mostGPUs; n++ {
		if refused(n) == "" {
			able = append(able, strconv.Itoa(n))
		}
	}
	switch {
	case len(able) == 0:
		return why
	case len(able) == 1:
		return why + "; it takes " + able[0]
	}
	last := len(able) - 1
	return why + "; it takes " + strings.Join(able[:last], ", ") + " or " + able[last]
}

// mostGPUs is how many GPUs one machine has at the most.
const mostGPUs = 16
