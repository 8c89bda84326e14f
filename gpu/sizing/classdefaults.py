#!/usr/bin/env python3
"""Write what transformers' configuration classes fill in where a config.json leaves a field out.

A published config.json holds what differs from its class, so head_dim or max_position_embeddings may be missing. One line a
model_type: its name, and a JSON object of the defaults of the fields that package sizing reads. "text_config" names the
model_type of the language model's part where config.json may leave that out, too. Run in the virtual environment of
`make clients`; `go test ./gpu/sizing -run TestClassDefaults -update` writes classdefaults.txt with it.
"""
import dataclasses
import json
import sys

from transformers import CONFIG_MAPPING

FIELDS = """
attention_chunk_size attn_layer_offset attn_layer_period conv_L_cache conv_kernel d_ff d_inner d_model expand expert_ffn_hidden_size
experts_per_token ffn_dim ffn_hidden_size full_attention_interval head_dim hidden_size intermediate_size kv_channels kv_lora_rank
linear_conv_kernel_dim linear_head_dim linear_key_head_dim linear_num_heads linear_num_key_heads linear_num_value_heads
linear_value_head_dim mamba_d_conv mamba_d_head mamba_d_ssm mamba_d_state mamba_expand mamba_head_dim mamba_headdim
mamba_intermediate mamba_n_groups mamba_n_heads mamba_ngroups mamba_num_heads max_position_embeddings max_seq_len max_window_layers
moe_intermediate_size moe_k moe_num_experts moe_top_k moe_topk multi_query n_embd n_groups n_head n_heads n_inner n_layer n_layers
n_positions n_routed_experts n_shared_experts new_decoder_architecture num_attention_groups num_attention_heads num_experts
num_experts_per_tok num_heads num_hidden_layers num_key_value_heads num_kv_heads num_layers num_ln_in_parallel_attn
num_local_experts q_lora_rank qk_nope_head_dim qk_rope_head_dim shared_expert_intermediate_size sliding_window
sliding_window_pattern ssm_state_size state_size tie_word_embeddings top_k_experts use_sliding_window v_head_dim vocab_size
""".split()


def defaults(cls):
    """Return the class's own values, not what it computes from others when it is made."""
    found = {}
    for f in dataclasses.fields(cls):
        if f.name in FIELDS and isinstance(f.default, (bool, int)):
            found[f.name] = f.default
    text = (getattr(cls, "sub_configs", None) or {}).get("text_config")
    if text is not None and getattr(text, "model_type", ""):
        found["text_config"] = text.model_type
    return found


def main():
    for model_type in sorted(CONFIG_MAPPING):
        cls = CONFIG_MAPPING[model_type]
        found = defaults(cls) if dataclasses.is_dataclass(cls) else {}
        if "vocab_size" in found or "text_config" in found:
            print(model_type, json.dumps(found, sort_keys=True, separators=(",", ":")))
    return 0


sys.exit(main())
