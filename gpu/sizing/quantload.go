package sizing

import (
	"fmt"
	"slices"
)

// onLoad is a way to quantize weights while they are loaded: bits is what a number of a linear layer then takes, scales
// included.
type onLoad struct {
	name string
	bits float64
	// since is the first release whose source was read for it.
	since release
}

// onLoadMethods are the methods of --quantization that make every linear layer and every expert of an unquantized model
// smaller for certain (config/quantization.py, _ONLINE_SHORTHANDS, and quantization/fp8.py). Embedding and output head
// stay as they are.
func onLoadMethods() []onLoad {
	return []onLoad{
		{"fp8", 8, oldestMinor},
		{"fp8_per_tensor", 8, newestMinor},
		{"fp8_per_channel", 8, newestMinor},
		{"fp8_per_block", 8, newestMinor},
		{"mxfp8", 8 + 8.0/32, newestMinor},
	}
}

// quantizationFamilies are names of --quantization for what config.json calls otherwise: kernels for the same weights.
func quantizationFamilies() [][]string {
	return [][]string{
		{"awq", "auto_awq", "awq_marlin"},
		{"gptq", "auto_gptq", "gptq_marlin"},
		{"mxfp4", "gpt_oss_mxfp4"},
	}
}

// quantized is the model as vLLM holds it with --quantization, and why that is an estimate; "" where it is none.
func (m Model) quantized(method string, r release) (loaded Model, doubt string) {
	a := m.Architecture
	sameFamily := func(f []string) bool { return slices.Contains(f, method) && slices.Contains(f, a.Quantization) }
	switch {
	case method == "" || method == a.Quantization || slices.ContainsFunc(quantizationFamilies(), sameFamily):
		return m, ""
	case a.Quantization != "":
		return m, fmt.Sprintf("the weights are quantized already (%s), and what --quantization %s makes of them is not known here", a.Quantization, method)
	}
	methods := onLoadMethods()
	i := slices.IndexFunc(methods, func(o onLoad) bool { return o.name == method })
	switch {
	case i < 0 || r < methods[i].since:
		return m, fmt.Sprintf("what --quantization %s makes of the weights is not known here; they are counted as in the files", method)
	case m.Weights.linearBytes == 0:
		return m, fmt.Sprintf("which tensors --quantization %s makes smaller is not known of these files; they are counted as they are", method)
	}
	switch m.Weights = m.Weights.smaller(methods[i].bits / 16); {
	case a.LatentDim > 0:
		doubt = "MLA's projections are counted as quantized"
	case a.Multimodal:
		doubt = "of encoders nothing is counted as quantized"
	}
	return m, doubt
}

// smaller is the weights with linear layers of a part of their size.
func (w Weights) smaller(ratio float64) Weights {
	less16 := func(loaded, linear uint64) uint64 { return less(loaded, uint64(float64(linear)*(1-ratio))) }
	w.LoadedBytes = less16(w.LoadedBytes, w.linearBytes)
	w.KVProjectionBytes = uint64(float64(w.KVProjectionBytes) * ratio)
	w.linearBytes = uint64(float64(w.linearBytes) * ratio)
	shrink := func(l *layerBytes) {
		l.loaded = less16(l.loaded, l.linear)
		l.kvProjection, l.linear = uint64(float64(l.kvProjection)*ratio), uint64(float64(l.linear)*ratio)
	}
	w.parts.layers = slices.Clone(w.parts.layers)
	for i := range w.parts.layers {
		shrink(&w.parts.layers[i])
	}
	return w
}

// widened is the weights in a type of twice the width, as --dtype float32 has them.
func (w Weights) widened() Weights {
	w.LoadedBytes, w.ReplicatedBytes = mul(w.LoadedBytes, 2), mul(w.ReplicatedBytes, 2)
	w.KVProjectionBytes, w.linearBytes = mul(w.KVProjectionBytes, 2), mul(w.linearBytes, 2)
	double := func(l layerBytes) layerBytes {
		return layerBytes{mul(l.loaded, 2), mul(l.replicated, 2), mul(l.kvProjection, 2), l.mxfp4, mul(l.linear, 2)}
	}
	w.parts.layers = slices.Clone(w.parts.layers)
	for i, l := range w.parts.layers {
		w.parts.layers[i] = double(l)
	}
	w.parts.embed, w.parts.head, w.parts.rest = double(w.parts.embed), double(w.parts.head), double(w.parts.rest)
	return w
}
