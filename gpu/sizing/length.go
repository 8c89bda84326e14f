package sizing

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// defaultLength is what vLLM takes where config.json names no length.
const defaultLength = 2048

// readLength derives the maximal length as vLLM does: model_max_length of
// config.json, else the least of the other fields that name one, times the factor of
// RoPE scaling. The tokenizer's own model_max_length plays no part. vLLM 0.33:
// derive_max_model_len_and_key, _get_and_verify_max_len.
func readLength(a *Architecture, c config) error {
	a.MaxModelLen = defaultLength
	var length, stated uint64
	var errs []error
	for _, name := range []string{
		"max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
		"max_target_positions", "max_sequence_length", "max_seq_length", "seq_len",
	} {
		if raw, ok := c.get(name); ok && isBeyond(raw) {
			continue // tokenizers write 1e30 for no bound, and it ends up here
		}
		n, err := c.number(name)
		errs = append(errs, err) // the others count all the same
		if n > 0 && (length == 0 || n < length) {
			length = n
		}
		if name == "model_max_length" {
			stated = n
		}
	}
	if stated > 0 {
		length = stated // of Command-R, whose other fields state less
	}
	if err := errors.Join(errs...); err != nil {
		a.estimate("%s is not understood: %s", c.file, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if length == 0 {
		a.estimate("%s names no maximal length; %d is vLLM's default then", c.file, defaultLength)
		return nil
	}
	for _, rules := range []struct {
		yarn bool
		into *int64
	}{{false, &a.LongestModelLen}, {true, &a.yarnLength}} {
		scaled, err := scaledLength(a, c, length, rules.yarn)
		*rules.into = int64(max(1, min(scaled, maxNumber)))
		if err != nil {
			return err
		}
	}
	a.MaxModelLen, a.namesLength = a.LongestModelLen, true
	params, err := ropeParameters(c)
	if err != nil {
		return err
	}
	for _, r := range params {
		kind, err := ropeType(r)
		if err != nil {
			return err
		}
		if original, err := c.number("original_max_position_embeddings"); err != nil || kind == "longrope" && original > 0 {
			// Longer requests are served, but would make short ones worse.
			a.MaxModelLen, a.yarnLength = int64(original), int64(original)
			return err
		}
	}
	return nil
}

// defaultLength is the longest request of a release where none is given.
func (a Architecture) defaultLength(r release) int64 {
	if r.scalesYaRN() && a.yarnLength > 0 {
		return a.yarnLength
	}
	return a.MaxModelLen
}

// longest is the longest request that a release takes without being told to.
func (a Architecture) longest(r release) int64 { return max(a.defaultLength(r), a.LongestModelLen) }

// CheckLength returns an error where vLLM refuses requests as long as Serving asks for,
// because the model's own length is less. A model that names no length takes any. vLLM
// lets itself be overruled by VLLM_ALLOW_LONG_MAX_MODEL_LEN, of which Serving knows
// nothing, and by another RoPE scaling (--hf-overrides): arguments that are not counted
// refuse nothing.
func (m Model) CheckLength(s Serving) error {
	r, err := parseRelease(s.VLLMVersion)
	if err != nil {
		return err
	}
	if own := m.Architecture.longest(r); m.Architecture.namesLength && len(s.Uncounted) == 0 && s.MaxModelLen > own {
		return fmt.Errorf("maxModelLen %d is beyond the model's own %d, which vLLM refuses", s.MaxModelLen, own)
	}
	return nil
}

// scaledLength applies RoPE scaling. Gemma 3 states its length scaled already, and
// so do models with YaRN to vLLM since 0.30; before, yarn is true.
func scaledLength(a *Architecture, c config, length uint64, yarn bool) (uint64, error) {
	if isGemma3(a.ModelType) {
		return length, nil
	}
	params, err := ropeParameters(c)
	if err != nil {
		return length, err
	}
	factor := 1.0
	for _, r := range params {
		kind, err := ropeType(r)
		if err != nil {
			return length, err
		}
		switch kind {
		case "su", "longrope", "llama3": // their length is stated scaled
			continue
		case "yarn", "deepseek_yarn", "deepseek_llama_scaling":
			if !yarn {
				continue
			}
			original, err := r.number("original_max_position_embeddings")
			if err != nil {
				return length, err
			}
			if original > 0 {
				length = original
			}
		}
		if _, ok := r.get("factor"); ok {
			if factor, err = r.factor("factor"); err != nil {
				return length, err
			}
		}
	}
	return uint64(min(float64(length)*factor, maxNumber)), nil
}

// ropes are the parameters of RoPE: one set, or one for each type of layers.
func ropes(rope map[string]json.RawMessage) []config {
	var nested []config
	for _, name := range slices.Sorted(maps.Keys(rope)) {
		var layer map[string]json.RawMessage
		if json.Unmarshal(rope[name], &layer) != nil || layer == nil {
			return []config{in(rope)}
		}
		nested = append(nested, in(layer))
	}
	return nested
}

func isGemma3(modelType string) bool { return strings.Contains(modelType, "gemma3") }
