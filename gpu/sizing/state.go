package sizing

import "encoding/json"

// State is what one state-space, linear-attention or convolution layer keeps of
// one request, in elements over all GPUs.
type State struct {
	// Recurrent is the state itself, RecurrentBytes the width of an element.
	Recurrent      uint64 `json:"recurrent"`
	RecurrentBytes uint64 `json:"recurrentBytes"`
	// Convolution is the window of the short convolution before it, two bytes
	// an element.
	Convolution uint64 `json:"convolution"`
	// Groups of a state space share their input; each adds GroupConvolution to
	// the window. They are repeated where there are fewer than GPUs.
	Groups           uint64 `json:"groups,omitempty"`
	GroupConvolution uint64 `json:"groupConvolution,omitempty"`
}

// bytes is a GPU's part of the state.
func (s State) bytes(tp uint64) uint64 {
	groups := s.Groups
	if groups%tp != 0 {
		groups = tp // as vLLM extends them
	}
	convolution := add(s.Convolution, mul(groups, s.GroupConvolution))
	return add(mul(ceilDiv(convolution, tp), 2), mul(ceilDiv(s.Recurrent, tp), s.RecurrentBytes))
}

// stateFields are the numbers that the state's formulas take.
type stateFields struct {
	inner, expand, size, kernel, groups, heads, headDim uint64
	keyHeads, keyDim, valueHeads, valueDim              uint64
}

// readState derives the state of a layer as vLLM lays it out. How much of it a
// request takes depends on vLLM's version and prefix caching, so it stays an
// estimate.
func readState(a *Architecture, c config) error {
	linear, err := c.object("linear_attn_config") // Kimi
	if err != nil {
		return err
	}
	c.levels = append([]map[string]json.RawMessage{linear}, c.levels...)
	var f stateFields
	err = readNumbers(c,
		numberInto{&f.inner, []string{"mamba_intermediate", "mamba_d_ssm", "d_inner"}},
		numberInto{&f.expand, []string{"mamba_expand", "expand"}},
		numberInto{&f.size, []string{"ssm_state_size", "mamba_d_state", "state_size"}},
		numberInto{&f.kernel, []string{"conv_kernel", "mamba_d_conv", "linear_conv_kernel_dim", "short_conv_kernel_size", "conv_L_cache"}},
		numberInto{&f.groups, []string{"n_groups", "mamba_n_groups", "mamba_ngroups"}},
		numberInto{&f.heads, []string{"mamba_num_heads", "mamba_n_heads", "linear_num_heads", "num_heads", "num_attention_heads"}},
		numberInto{&f.headDim, []string{"mamba_head_dim", "mamba_d_head", "mamba_headdim", "linear_head_dim", "head_dim"}},
		numberInto{&f.keyHeads, []string{"linear_num_key_heads"}},
		numberInto{&f.keyDim, []string{"linear_key_head_dim"}},
		numberInto{&f.valueHeads, []string{"linear_num_value_heads"}},
		numberInto{&f.valueDim, []string{"linear_value_head_dim"}},
	)
	if err != nil {
		return err
	}
	if f.headDim == 0 {
		f.headDim = a.KeyHeadDim
	}
	delta := len(linear) > 0 || c.has("linear_head_dim") // as transformers writes it
	a.State = f.state(a, delta)
	a.State.RecurrentBytes = 2
	dtype, err := c.text("mamba_ssm_cache_dtype")
	if dtype == "" && err == nil {
		dtype, err = c.text("mamba_ssm_dtype")
	}
	if dtype == "float32" || delta {
		a.State.RecurrentBytes = 4
	}
	a.estimate("%d layers keep a state of constant size; it is counted as vLLM lays it out by default", a.StateLayers)
	return err
}

// state is the layout by family.
func (f stateFields) state(a *Architecture, deltaAttention bool) State {
	window := less(f.kernel, 1) // the newest token is not kept
	switch {
	case deltaAttention: // Kimi's: keys and values of one width
		return State{Recurrent: mul(f.heads, f.headDim, f.headDim), Convolution: mul(3, f.heads, f.headDim, window)}
	case f.valueHeads > 0: // gated delta nets of Qwen3-Next
		channels := add(mul(2, f.keyHeads, f.keyDim), mul(f.valueHeads, f.valueDim))
		return State{Recurrent: mul(f.valueHeads, f.valueDim, f.keyDim), Convolution: mul(channels, window)}
	case f.size > 0: // state spaces
		inner := f.inner
		if isStateOnly(a.ModelType) {
			inner = a.Intermediate // these have no other use for it
		}
		if inner == 0 && f.expand > 0 {
			inner = mul(f.expand, a.HiddenSize)
		}
		if inner == 0 || a.ModelType == "nemotron_h" && f.headDim > 0 {
			inner = mul(f.heads, f.headDim)
		}
		s := State{Recurrent: mul(inner, f.size), Convolution: mul(inner, window)}
		if f.groups > 0 { // the second kind of Mamba
			s.Groups, s.GroupConvolution = f.groups, mul(2, f.size, window)
		}
		return s
	case f.kernel > 0: // short convolutions of LFM2
		return State{Convolution: mul(a.HiddenSize, window)}
	}
	return State{Recurrent: mul(f.heads, f.headDim, f.headDim)} // linear attention
}
