package sizing

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// defaultLength is what vLLM takes where config.json names no length.
const defaultLength = 2048

// readLength derives the maximal length as vLLM does: the least of the fields of
// config.json that name one, times the factor of RoPE scaling. The tokenizer's
// own model_max_length plays no part.
func readLength(a *Architecture, c config) error {
	a.MaxModelLen = defaultLength
	var length uint64
	for _, name := range []string{
		"max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
		"max_target_positions", "max_sequence_length", "max_seq_length", "seq_len",
	} {
		n, err := c.number(name)
		if err != nil {
			return err
		}
		if n > 0 && (length == 0 || n < length) {
			length = n
		}
	}
	if length == 0 {
		a.estimate("%s names no maximal length; %d is vLLM's default then", c.file, defaultLength)
		return nil
	}
	scaled, err := scaledLength(a, c, length)
	a.MaxModelLen = int64(max(1, min(scaled, maxNumber)))
	return err
}

// scaledLength applies RoPE scaling. Gemma 3 states its length scaled already.
func scaledLength(a *Architecture, c config, length uint64) (uint64, error) {
	if strings.Contains(a.ModelType, "gemma3") {
		return length, nil
	}
	rope, err := c.object("rope_scaling")
	if rope == nil && err == nil {
		rope, err = c.object("rope_parameters")
	}
	if rope == nil || err != nil {
		return length, err
	}
	factor := 1.0
	for _, r := range ropes(rope) {
		kind, err := r.text("rope_type")
		if kind == "" && err == nil {
			kind, err = r.text("type")
		}
		if err != nil {
			return length, err
		}
		switch kind {
		case "su", "longrope", "llama3": // their length is stated scaled
			continue
		case "yarn":
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
