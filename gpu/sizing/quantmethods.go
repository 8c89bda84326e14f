package sizing

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// quantMethods are the values of quant_method that the newest release takes without a plugin
// (model_executor/layers/quantization/__init__.py), and the names that those stand for.
func quantMethods() []string {
	return []string{
		"auto_awq", "auto_gptq", "auto-round", "awq", "awq_marlin", "compressed-tensors", "deepseek_v4_fp8", "experts_int8", "fbgemm_fp8",
		"fp8", "fp_quant", "gpt_oss_mxfp4", "gptq", "gptq_marlin", "humming", "inc", "modelopt", "modelopt_fp4", "modelopt_mixed",
		"modelopt_mxfp8", "moe_wna16", "mxfp4", "mxfp8", "quark", "torchao",
	}
}

// hasQuantMethod reports whether a release takes a quant_method without a plugin.
func (r release) hasQuantMethod(method string) bool {
	switch method {
	case "gguf":
		return r < 24
	case "bitsandbytes":
		return r < 28
	}
	return slices.Contains(quantMethods(), method)
}

// ordersGroups: weights whose groups were ordered by activation are loaded, GPTQ's as those of compressed-tensors
// (model_executor/layers/quantization/utils/gptq_utils.py).
func (r release) ordersGroups() bool { return r < 30 }

// refusesQuantization says what a release refuses of a model's quantization; "" if nothing is known.
func (r release) refusesQuantization(a Architecture) string {
	switch {
	case a.quantMethod != "" && !r.hasQuantMethod(a.quantMethod):
		return fmt.Sprintf("quant_method %q is none that vLLM %s has; it refuses the model unless a plugin adds it", a.quantMethod, r)
	case a.ordersGroups && !r.ordersGroups():
		return fmt.Sprintf("groups of weights are ordered by activation (desc_act, actorder), which vLLM %s refuses; releases before 0.30 load it", r)
	}
	return ""
}

// readOrder reads the method by its own name, and whether groups are ordered by activation.
func readOrder(a *Architecture, q config) error {
	method, err := q.text("quant_method")
	if err != nil {
		return err
	}
	a.quantMethod = strings.ToLower(method)
	size, _ := q.get("group_size")
	if strings.Contains(a.quantMethod, "gptq") && q.isTrue("desc_act") && string(size) != "-1" {
		a.ordersGroups = true
	}
	groups, err := q.object("config_groups") // compressed-tensors
	for _, raw := range groups {
		var group struct {
			Weights struct {
				Order any `json:"actorder"`
			} `json:"weights"`
		}
		if json.Unmarshal(raw, &group) == nil && (group.Weights.Order == "group" || group.Weights.Order == "dynamic") {
			a.ordersGroups = true
		}
	}
	return err
}
