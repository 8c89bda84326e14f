package sizing

import "strings"

// knownAttention says whether the fields of config.json mean for a model_type
// what this package takes them for. Others may use the same names for something
// else, so what is computed for them is an estimate.
func knownAttention(modelType string) bool {
	name := strings.TrimSuffix(strings.TrimSuffix(modelType, "_text"), "_moe")
	switch name {
	case "llama", "llama4", "mllama", "mistral", "mistral3", "ministral", "ministral3", "mixtral", "pixtral",
		"qwen", "qwen2", "qwen2_vl", "qwen2_5_vl", "qwen2_audio", "qwen2_5_omni", "qwen2_5_omni_thinker",
		"qwen3", "qwen3_vl", "qwen3_next", "qwen3_5", "qwen3_omni", "qwen3_omni_moe_thinker",
		"gemma", "gemma2", "gemma3", "paligemma", "phi", "phi3", "phi3_v", "phi4mm", "phimoe",
		"deepseek", "deepseek_v2", "deepseek_v3", "deepseek_vl_v2", "kimi_k2", "kimi_vl", "kimi_linear", "longcat_flash",
		"glm", "glm4", "glm4v", "chatglm", "gpt2", "gpt_neox", "gptj", "gpt_bigcode", "gpt_oss", "opt", "bloom", "mpt", "dbrx",
		"falcon", "RefinedWeb", "RefinedWebModel", "starcoder2", "stablelm", "cohere", "cohere2",
		"olmo", "olmo2", "olmo3", "olmoe", "internlm", "internlm2", "internlm3", "baichuan", "minicpm", "minicpm3",
		"exaone", "exaone4", "nemotron", "nemotron-nas", "granite", "granitemoe", "granitemoeshared", "smollm3", "arcee", "apertus",
		"dots1", "ernie4_5", "seed_oss", "hunyuan_v1_dense", "hunyuan_v1", "minimax", "minimax_m2", "minimax_text_01", "grok-1",
		"mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba", "bamba", "granitemoehybrid", "nemotron_h", "zamba2", "lfm2":
		return true
	}
	return false
}
