package sizing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
)

// config is a config.json. Multimodal models nest the language model's part in
// it; a field is looked for there first, then at the top, and then in what the
// model_type's class fills in.
type config struct {
	file     string // which one it was, for people
	levels   []map[string]json.RawMessage
	defaults []map[string]json.RawMessage
}

// readConfig reads what vLLM's auto format takes as the configuration.
func readConfig(fsys fs.FS) (config, error) {
	if mistral, err := hasMistralConfig(fsys); mistral || err != nil {
		if err != nil {
			return config{}, err
		}
		return readMistralConfig(fsys)
	}
	return readHFConfig(fsys)
}

// readHFConfig reads config.json; where it says nothing of quantization, ModelOpt's
// own file beside it does.
func readHFConfig(fsys fs.FS) (config, error) {
	var top map[string]json.RawMessage
	if err := readJSON(fsys, "config.json", &top); err != nil {
		return config{}, err
	}
	if top == nil {
		return config{}, errors.New("read config.json: it is not a JSON object")
	}
	c := config{file: "config.json", levels: []map[string]json.RawMessage{top}}
	if _, ok := c.get("quantization_config"); !ok {
		var modelopt map[string]json.RawMessage
		err := readJSON(fsys, "hf_quant_config.json", &modelopt)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return config{}, err
		}
		if q, ok := modelopt["quantization"]; ok {
			top["quantization_config"] = q
		}
	}
	modelType, text := stringOf(top["model_type"]), ""
	c.defaults = append(c.defaults, defaultsOf(modelType))
	text = stringOf(c.defaults[0]["text_config"]) // not a field of the language model
	// Qwen's omni models nest twice.
	for _, name := range []string{"thinker_config", "text_config", "llm_config", "language_config"} {
		nested, err := config{levels: c.levels}.object(name)
		if err != nil {
			return config{}, fmt.Errorf("read config.json: %w", err)
		}
		if nested != nil {
			c.levels = append([]map[string]json.RawMessage{nested}, c.levels...)
			if own := stringOf(nested["model_type"]); own != "" {
				text = own
			}
		}
	}
	if text != "" {
		c.defaults = append([]map[string]json.RawMessage{defaultsOf(text)}, c.defaults...)
	}
	return c, nil
}

func stringOf(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// get finds a field that is not null, or what its class fills in where the file
// leaves it out: null in the file is a value of its own.
func (c config) get(name string) (json.RawMessage, bool) {
	_, raw, ok := c.first(name)
	return raw, ok
}

// first finds the first of some names of one field: the file's comes before the
// class's, whichever name they use.
func (c config) first(names ...string) (name string, raw json.RawMessage, ok bool) {
	null := false
	for _, name := range names {
		for _, level := range c.levels {
			raw, ok := level[name]
			if ok && string(raw) != "null" {
				return name, raw, true
			}
			null = null || ok
		}
	}
	if null {
		return "", nil, false
	}
	for _, name := range names {
		for _, level := range c.defaults {
			if raw, ok := level[name]; ok {
				return name, raw, true
			}
		}
	}
	return "", nil, false
}

// badField says which field is wrong, what it holds and what it should.
func badField(name string, raw json.RawMessage, want string) error {
	value := string(raw)
	if len(value) > 60 {
		value = value[:60] + "..."
	}
	return fmt.Errorf("%s is %s; want %s", name, value, want)
}

// object is a nested object, nil if it is absent.
func (c config) object(name string) (map[string]json.RawMessage, error) {
	raw, ok := c.get(name)
	if !ok {
		return nil, nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, badField(name, raw, "an object")
	}
	return m, nil
}

// number is the first of the named fields that is there, 0 if none is. Where it
// is a list, one number for each layer, the largest counts.
func (c config) number(names ...string) (uint64, error) {
	name, raw, ok := c.first(names...)
	if !ok {
		return 0, nil
	}
	n, ok := parseNumber(raw)
	switch {
	case !ok && isBeyond(raw):
		return 0, badField(name, raw, fmt.Sprintf("at most %d", uint64(maxNumber)))
	case !ok:
		return 0, badField(name, raw, "a whole number, not negative")
	}
	return n, nil
}

// maxNumber bounds each number of a config.json: no dimension of a model comes
// near it.
const maxNumber = 1 << 40

// isBeyond reports whether raw is a number larger than any of a model.
func isBeyond(raw json.RawMessage) bool {
	f, err := strconv.ParseFloat(strings.TrimSpace(string(raw)), 64)
	return err == nil && f > maxNumber
}

func parseNumber(raw json.RawMessage) (uint64, bool) {
	text := strings.TrimSpace(string(raw))
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return n, n <= maxNumber
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil { // 4096.0 and 4.096e3
		return uint64(max(f, 0)), f >= 0 && f <= maxNumber && f == math.Trunc(f)
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || len(list) == 0 {
		return 0, false
	}
	var largest uint64
	for _, item := range list {
		f, err := strconv.ParseFloat(strings.TrimSpace(string(item)), 64)
		if err != nil || f < 0 || f > maxNumber || f != math.Trunc(f) {
			return 0, false
		}
		largest = max(largest, uint64(f))
	}
	return largest, true
}

// factor is a number that may have decimals, 1 if it is absent.
func (c config) factor(name string) (float64, error) {
	raw, ok := c.get(name)
	if !ok {
		return 1, nil
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f <= 0 || f > maxNumber {
		return 0, badField(name, raw, "a positive number")
	}
	return f, nil
}

// text is a string field; "" if it is absent.
func (c config) text(name string) (string, error) {
	raw, ok := c.get(name)
	if !ok {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", badField(name, raw, "a string")
	}
	return s, nil
}

// isTrue and isFalse are of fields that say so; absent ones are neither.
func (c config) isTrue(name string) bool  { raw, _ := c.get(name); return string(raw) == "true" }
func (c config) isFalse(name string) bool { raw, _ := c.get(name); return string(raw) == "false" }

// has says whether one of the fields is there, and not null, false or empty.
func (c config) has(names ...string) bool {
	for _, name := range names {
		if raw, ok := c.get(name); ok {
			switch string(raw) {
			case "false", "0", "[]", "{}", `""`:
			default:
				return true
			}
		}
	}
	return false
}

// strings is a list of strings; nil if it is absent.
func (c config) strings(name string) ([]string, error) {
	raw, ok := c.get(name)
	if !ok {
		return nil, nil
	}
	var list []string
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, badField(name, raw, "a list of strings")
	}
	return list, nil
}

// numbers is a list of numbers; nil if it is absent.
func (c config) numbers(name string) ([]uint64, error) {
	raw, ok := c.get(name)
	if !ok {
		return nil, nil
	}
	var list []uint64
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, badField(name, raw, "a list of numbers")
	}
	return list, nil
}

// in is the same kind of lookup inside a nested object.
func in(object map[string]json.RawMessage) config {
	return config{levels: []map[string]json.RawMessage{object}}
}
