package sizing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// mistralLength is the longest request, in tokens, where neither params.json nor a
// config.json names one.
const mistralLength = 128_000

// consolidatedOf leaves the files in Mistral's format.
func consolidatedOf(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !strings.HasPrefix(name, "consolidated") })
}

// hasMistralConfig reports whether vLLM takes the configuration from params.json: it
// is there, and weights in Mistral's format are (vLLM 0.33: get_config).
func hasMistralConfig(fsys fs.FS) (bool, error) {
	weights, err := rootFiles(fsys, ".safetensors")
	if err != nil || len(consolidatedOf(weights)) == 0 {
		return false, err
	}
	params, err := rootFiles(fsys, "params.json")
	return slices.Contains(params, "params.json"), err
}

// fieldMap is a JSON object whose values are not decoded yet.
type fieldMap = map[string]json.RawMessage

// readMistralConfig reads params.json into the words of config.json, as vLLM 0.33 does
// (transformers_utils/configs/mistral.py). A config.json beside it says what params.json
// does not.
func readMistralConfig(fsys fs.FS) (config, error) {
	var params fieldMap
	if err := readJSON(fsys, "params.json", &params); err != nil {
		return config{}, err
	}
	if params == nil {
		return config{}, errors.New("read params.json: it is not a JSON object")
	}
	hf, err := readHFConfig(fsys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return config{}, err
	}
	c := config{file: "params.json", levels: []fieldMap{params}}
	for _, name := range [][2]string{
		{"dim", "hidden_size"},
		{"n_layers", "num_hidden_layers"},
		{"n_heads", "num_attention_heads"},
		{"n_kv_heads", "num_key_value_heads"},
		{"hidden_dim", "intermediate_size"},
		{"tied_embeddings", "tie_word_embeddings"},
	} {
		move(params, name[0], params, name[1])
	}
	for _, convert := range []func(config, fieldMap) error{mistralWindow, mistralQuantization, mistralExperts, mistralRope} {
		if err := convert(c, params); err != nil {
			return config{}, fmt.Errorf("read params.json: %w", err)
		}
	}
	mistralType(c, params)
	if err := mistralMaxLength(c, hf, params); err != nil {
		return config{}, fmt.Errorf("read params.json: %w", err)
	}
	if _, ok := c.get("tie_word_embeddings"); !ok {
		set(params, "tie_word_embeddings", false) // whatever config.json says
	}
	if len(hf.levels) > 0 { // the last is the file's own top
		c.levels = append(c.levels, hf.levels[len(hf.levels)-1])
	}
	return c, nil
}

// move gives a field another name, or another object, if it is there and not null.
func move(from fieldMap, name string, to fieldMap, newName string) {
	raw, ok := from[name]
	delete(from, name)
	if ok && string(raw) != "null" {
		to[newName] = raw
	}
}

func set(to fieldMap, name string, value any) {
	raw, err := json.Marshal(value)
	if err == nil { // strings, numbers and lists of them always encode
		to[name] = raw
	}
}

// mistralType names the architecture by what vLLM makes of it.
func mistralType(c config, params fieldMap) {
	modelType, _ := c.text("model_type") // what it is else, counts as nothing
	_, experts := c.get("num_experts_per_tok")
	switch {
	case modelType == "mamba":
		modelType = "mamba2"
	case c.has("qk_nope_head_dim", "n_shared_experts"):
		modelType = "deepseek_v3"
	case experts:
		modelType = "mixtral"
	default:
		modelType = "mistral"
	}
	set(params, "model_type", modelType)
}

// mistralWindow turns a window, or a list with one for each layer of a period and null
// for those without, into types of layers.
func mistralWindow(c config, params fieldMap) error {
	raw, ok := c.get("sliding_window")
	if !ok {
		return nil
	}
	layers, err := c.number("num_hidden_layers")
	if err != nil {
		return err
	}
	if layers > maxLayers {
		return badField("num_hidden_layers", params["num_hidden_layers"], "the number of a model's layers")
	}
	if raw[0] != '[' {
		return nil // one number, for all
	}
	var period []*uint64
	if json.Unmarshal(raw, &period) != nil {
		return badField("sliding_window", raw, "a number of tokens, or a list with those of a period of layers")
	}
	types, window := make([]string, 0, layers), uint64(0)
	for i := range layers {
		kind := "full_attention"
		if len(period) > 0 {
			if w := period[i%uint64(len(period))]; w != nil {
				kind, window = "sliding_attention", *w
			}
		}
		types = append(types, kind)
	}
	set(params, "layer_types", types)
	set(params, "sliding_window", window)
	return nil
}

// maxLayers bounds what is written out layer by layer.
const maxLayers = 1 << 16

// mistralQuantization knows FP8 by its name there; compressed-tensors is kept.
func mistralQuantization(c config, params fieldMap) error {
	quantization, err := c.object("quantization")
	if err != nil || len(quantization) == 0 {
		return err
	}
	delete(params, "quantization")
	if format, err := in(quantization).text("qformat_weight"); err != nil {
		return err
	} else if format == "fp8_e4m3" {
		quantization = fieldMap{}
		set(quantization, "quant_method", "fp8")
	}
	set(params, "quantization_config", quantization)
	return nil
}

// mistralExperts lifts the fields of a mixture of experts.
func mistralExperts(c config, params fieldMap) error {
	moe, err := c.object("moe")
	if err != nil || moe == nil {
		return err
	}
	delete(params, "moe")
	for _, name := range [][2]string{
		{"num_experts_per_tok", "num_experts_per_tok"},
		{"num_experts", "n_routed_experts"},
		{"expert_hidden_dim", "moe_intermediate_size"},
		{"num_shared_experts", "n_shared_experts"},
	} {
		move(moe, name[0], params, name[1])
	}
	return nil
}

// mistralRope turns yarn's fields into those of RoPE's parameters.
func mistralRope(c config, params fieldMap) error {
	yarn, err := c.object("yarn")
	if err != nil || len(yarn) == 0 {
		return err
	}
	delete(params, "yarn")
	rope := fieldMap{}
	set(rope, "rope_type", "yarn")
	for _, name := range []string{"factor", "original_max_position_embeddings"} {
		move(yarn, name, rope, name)
	}
	set(params, "rope_parameters", rope)
	return nil
}

// mistralMaxLength fills in the length: params.json's own, config.json's, or vLLM's
// default.
func mistralMaxLength(c, hf config, params fieldMap) error {
	length, err := c.number("max_position_embeddings")
	if err == nil && length == 0 {
		length, err = hf.number("max_position_embeddings")
	}
	if err != nil {
		return err
	}
	if length == 0 {
		length = mistralLength
	}
	set(params, "max_position_embeddings", length)
	return nil
}
