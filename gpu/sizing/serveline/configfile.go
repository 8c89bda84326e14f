package serveline

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxConfig bounds the file that --config names: it holds a few options.
const maxConfig = 1 << 20

// fromFile is the words that stand for a file of options (utils/argparse_utils.py, load_config_file): a mapping from
// names to values, true for a flag, and a list or an object for options that take one.
func fromFile(name string, open func(string) ([]byte, error)) ([]string, error) {
	if open == nil {
		return nil, errors.New("it is not read here")
	}
	data, err := open(name)
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("it is larger than %d bytes", maxConfig)
	}
	var values map[string]any
	if err := yaml.Unmarshal(data, &values, func(d *json.Decoder) *json.Decoder { d.UseNumber(); return d }); err != nil {
		return nil, errors.New("it is no mapping of names and values in YAML")
	}
	var words []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		option := "--" + key
		switch v := values[key].(type) {
		case bool:
			if !v {
				option = "--no-" + strings.ReplaceAll(key, "_", "-")
			}
			words = append(words, option)
		case []any, map[string]any:
			words = append(words, option, "...") // of those none counts
		case nil:
			words = append(words, option+"=None")
		default:
			words = append(words, option+"="+fmt.Sprint(v))
		}
	}
	return words, nil
}
