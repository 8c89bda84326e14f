package sizing

import "encoding/json"

// readRotary computes the tables of rotary positions that vLLM keeps in GPU memory, whole on every GPU: a cosine and a
// sine for each position and pair of numbers of a head, in the type that it computes in. A model for long requests has
// long tables: those of Llama 4 Scout take 2.5 GiB (vllm/model_executor/layers/rotary_embedding, _compute_cos_sin_cache).
func readRotary(a *Architecture, c config) error {
	switch a.ModelType {
	case "gpt2", "gpt_bigcode", "opt", "bloom", "mpt", "dbrx_alibi", "nemotron_h", "bart", "whisper":
		return nil // learned positions, a bias, or none
	}
	if a.FullLayers+a.WindowLayers == 0 {
		return nil
	}
	positions, err := c.number("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
	if err != nil {
		return err
	}
	var rope uint64
	if rope, err = c.number("qk_rope_head_dim"); err != nil {
		return err
	}
	params, err := ropeParameters(c)
	if err != nil {
		return err
	}
	part, err := rotaryPart(c, params)
	if err != nil {
		return err
	}
	dim, width := uint64(float64(a.KeyHeadDim)*min(part, 1)), uint64(2)
	if a.LatentDim > 0 { // DeepSeek's own scaling keeps float32
		dim, width = rope, 4
	}
	if len(params) == 0 {
		a.RotaryBytes = mul(positions, dim, width)
		return nil
	}
	var rows uint64
	for _, r := range params {
		n, err := tableRows(r, c, positions)
		if err != nil {
			return err
		}
		rows = add(rows, n)
	}
	if len(params) == 1 && a.FullLayers > 0 && a.WindowLayers > 0 && isGemma3(a.ModelType) {
		rows = add(rows, positions) // windows turn by another base, unscaled
	}
	a.RotaryBytes = mul(rows, dim, width)
	return nil
}

// rotaryPart is the part of a head that is turned, stated with the scaling or beside it.
func rotaryPart(c config, params []config) (float64, error) {
	for _, from := range append([]config{c}, params...) {
		for _, name := range []string{"partial_rotary_factor", "rotary_pct"} {
			if _, ok := from.get(name); ok {
				return from.factor(name)
			}
		}
	}
	return 1, nil
}

// tableRows is how many positions one table has.
func tableRows(r, c config, positions uint64) (uint64, error) {
	kind, err := ropeType(r)
	if err != nil {
		return 0, err
	}
	original, err := r.number("original_max_position_embeddings")
	if err != nil {
		return 0, err
	}
	factor, err := r.factor("factor")
	if err != nil {
		return 0, err
	}
	switch kind {
	case "llama3":
		return positions, nil
	case "su", "longrope": // one table for short requests, one for long
		if original == 0 {
			original, err = c.number("original_max_position_embeddings")
		}
		return add(positions, original), err
	case "yarn", "deepseek_yarn":
		if original > 0 {
			positions = original
		}
	}
	return uint64(min(float64(positions)*factor, maxNumber)), nil
}

// ropeParameters are those of the scaling of RoPE, one set or one for each type of layers; nil for none.
func ropeParameters(c config) ([]config, error) {
	var rope map[string]json.RawMessage
	for _, name := range []string{"rope_scaling", "rope_parameters"} {
		found, err := c.object(name)
		if err != nil {
			return nil, err
		}
		if found != nil {
			rope = found
			break
		}
	}
	if rope == nil {
		return nil, nil
	}
	return ropes(rope), nil
}

// ropeType is the kind of scaling, by its new name or its old one.
func ropeType(r config) (string, error) {
	kind, err := r.text("rope_type")
	if kind == "" && err == nil {
		kind, err = r.text("type")
	}
	return kind, err
}
