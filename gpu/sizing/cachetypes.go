package sizing

import (
	"fmt"
	"slices"
	"strings"
)

// cacheType is a type of the KV cache: what it takes of each token.
type cacheType struct {
	name string
	// bits is the width of a number, 0 where the size is not known here.
	bits uint64
	// scales are the bytes beside one head's keys and values, group how many numbers share one more byte; 0 for none.
	scales, group uint64
	// latent is what MLA's 576 numbers take together, where they are packed in a way of their own.
	latent uint64
}

// packedLatent is the number of values that vLLM's own layouts for MLA pack: 512 without and 64 with positions.
const packedLatent = 576

// cacheTypes are the types that vLLM's --kv-cache-dtype takes (config/cache.py, CacheDType), beside auto. The sizes are
// those of v1/attention/backends (customize_spec) and mla_attention.py. Types without one leave some layers as they are,
// or are of other hardware than NVIDIA's.
func cacheTypes() []cacheType {
	return []cacheType{
		{name: "bfloat16", bits: 16},
		{name: "float16", bits: 16},
		{name: "fp8", bits: 8},
		{name: "fp8_e4m3", bits: 8},
		{name: "fp8_e5m2", bits: 8},
		{name: "fp8_inc", bits: 8},
		{name: "fp8_ds_mla", latent: 656},
		{name: "fp8_per_token_head", bits: 8, scales: 8}, // a float32 for keys, and one for values
		{name: "int4_per_token_head", bits: 4, scales: 8},
		{name: "int8_per_token_head", bits: 8, scales: 8},
		{name: "nvfp4", bits: 4, group: 16},
		{name: "nvfp4_4over6", bits: 4, group: 16},
		{name: "nvfp4_ds_mla", latent: 352},
		{name: "octave_k3v3"},
		{name: "octave_k3v3_compact"},
		{name: "octave_k3v4"},
		{name: "turboquant_3bit_nc"},
		{name: "turboquant_4bit_nc"},
		{name: "turboquant_k3v4_nc"},
		{name: "turboquant_k8v4"},
		{name: "ultraquant_4bit"},
	}
}

// KVCacheDtypes are the types of the KV cache that vLLM of [DefaultVLLMVersion] takes, auto first. Each other name is
// one of a newer release or a mistake, which vLLM itself tells apart.
func KVCacheDtypes() []string {
	names := []string{"auto"}
	for _, t := range cacheTypes() {
		names = append(names, t.name)
	}
	return names
}

// DoubtKVCacheDtype says why the answer for a type of the KV cache is an estimate whatever the model is: its size is not
// known here, or not even its name. "" where it is known.
func DoubtKVCacheDtype(name string) string {
	if name == "" || name == "auto" {
		return ""
	}
	for _, t := range cacheTypes() {
		switch {
		case t.name != name:
		case t.bits > 0 || t.latent > 0:
			return ""
		default:
			return fmt.Sprintf("the size of a KV cache of type %q is not known here; it is counted as auto", name)
		}
	}
	return fmt.Sprintf("vLLM %s has no KV cache of type %q; it is counted as auto (it has %s)", DefaultVLLMVersion, name, strings.Join(KVCacheDtypes(), ", "))
}

// tokenBytes is what one attention layer caches of one token on one GPU; known is false where the type's size is not
// known for this model.
func (a Architecture) tokenBytes(tp uint64, dtype string) (bytes uint64, known bool) {
	heads := max(1, a.KVHeads/tp)
	sides := []uint64{a.KeyHeadDim, a.ValueHeadDim}
	if a.LatentDim > 0 {
		heads, sides = 1, []uint64{a.LatentDim}
	}
	types := append(cacheTypes(), cacheType{name: "float32", bits: 32}) // what auto is of --dtype float32
	i := slices.IndexFunc(types, func(t cacheType) bool { return t.name == dtype })
	if i < 0 {
		return 0, false
	}
	t := types[i]
	switch {
	case t.latent > 0:
		return t.latent, a.LatentDim == packedLatent
	case t.bits == 0, t.group > 0 && a.LatentDim > 0:
		return 0, false
	}
	head := t.scales
	for _, numbers := range sides {
		head = add(head, mul(numbers, t.bits)/8)
		if t.group > 0 {
			head = add(head, numbers/t.group)
		}
	}
	return mul(heads, head), true
}
