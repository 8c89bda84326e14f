package sizing

import "encoding/json"

// block is one layer of a model whose layers were searched for, as Nemotron's Super and Ultra, each with a shape of its own.
type block struct {
	Attention *struct {
		NoOp         bool   `json:"no_op"`
		HeadsInGroup uint64 `json:"n_heads_in_group"`
	} `json:"attention"`
	FFN struct {
		NoOp bool    `json:"no_op"`
		Mult float64 `json:"ffn_mult"`
	} `json:"ffn"`
}

// layersByBlocks reads block_configs: which layers have attention, with how many heads to a group, and how wide they are
// (vllm/model_executor/models/nemotron_nas.py). It reports false where they are not of that kind.
func layersByBlocks(a *Architecture, c config) (bool, error) {
	raw, ok := c.get("block_configs")
	if !ok {
		return false, nil
	}
	var blocks []block
	if err := json.Unmarshal(raw, &blocks); err != nil {
		return false, badField("block_configs", raw, "a list of objects")
	}
	var layers, heads, least uint64
	var mult float64
	for _, b := range blocks {
		if b.Attention == nil {
			return false, nil
		}
		if !b.FFN.NoOp {
			mult = max(mult, b.FFN.Mult)
		}
		if b.Attention.NoOp {
			continue
		}
		if b.Attention.HeadsInGroup == 0 || b.Attention.HeadsInGroup > a.Heads {
			return false, nil
		}
		kv := a.Heads / b.Attention.HeadsInGroup
		if layers++; layers == 1 {
			least = kv
		}
		heads, least = max(heads, kv), min(least, kv)
	}
	if layers == 0 {
		return false, nil
	}
	a.FullLayers, a.KVHeads = layers, heads
	if least < heads {
		a.estimate("block_configs: layers have %d to %d KV heads; the most count for all", least, heads)
	}
	if mult > 0 && mult < 1000 {
		const multiple = 256
		a.DenseIntermediate = mul(ceilDiv(uint64(2*mult*float64(min(a.HiddenSize, maxNumber))/3), multiple), multiple)
		a.Intermediate = max(a.Intermediate, a.DenseIntermediate)
	}
	return true, nil
}
