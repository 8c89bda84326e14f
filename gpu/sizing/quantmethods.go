package sizing

import "slices"

// quantMethods are the values of quant_method that vLLM takes without a plugin, of any release since the first whose rules
// are known here (vllm/model_executor/layers/quantization/__init__.py), and the names that those stand for.
func quantMethods() []string {
	return []string{
		"auto_awq", "auto_gptq", "auto-round", "awq", "awq_marlin", "compressed-tensors", "deepseek_v4_fp8", "experts_int8", "fbgemm_fp8",
		"fp8", "fp_quant", "gpt_oss_mxfp4", "gptq", "gptq_marlin", "humming", "inc", "modelopt", "modelopt_fp4", "modelopt_mixed",
		"modelopt_mxfp8", "moe_wna16", "mxfp4", "mxfp8", "quark", "torchao",
	}
}

// noteQuantMethod tells of a method for which vLLM has no code: it refuses the model then.
func noteQuantMethod(a *Architecture, method string) {
	if method != "" && !slices.Contains(quantMethods(), method) {
		a.estimate("quant_method %q is none that vLLM %s has; it refuses the model unless a plugin adds it", method, DefaultVLLMVersion)
	}
}
