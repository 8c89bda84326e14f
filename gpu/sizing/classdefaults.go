package sizing

import (
	_ "embed"
	"encoding/json"
	"strings"
)

// classDefaults holds what transformers' configuration classes fill in where a config.json leaves a field out, one
// model_type a line. classdefaults.py writes it from the package, and a test compares the two.
//
//go:embed classdefaults.txt
var classDefaults string

// defaultsOf returns the defaults of a model_type, nil where its class is not in the table: models whose code comes
// with them, and those of vLLM's own classes, have all fields in their config.json.
func defaultsOf(modelType string) map[string]json.RawMessage {
	if modelType == "" || strings.ContainsAny(modelType, " \n") {
		return nil
	}
	_, line, ok := strings.Cut("\n"+classDefaults, "\n"+modelType+" ")
	if !ok {
		return nil
	}
	line, _, _ = strings.Cut(line, "\n")
	var fields map[string]json.RawMessage
	if json.Unmarshal([]byte(line), &fields) != nil {
		return nil // a test reads every line
	}
	return fields
}
