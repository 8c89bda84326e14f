package agent

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// fields reads one mapping of the configuration by hand instead of into a
// struct, because a decoder stops at its first complaint and an operator wants
// all of them: each names the field, its value and what would be right.
type fields struct {
	path  string
	m     map[string]any
	known []string
	errs  *[]error
}

// asFields takes v as a mapping; a missing one is empty.
func asFields(path string, v any, errs *[]error) *fields {
	f := &fields{path: path, errs: errs}
	switch v := v.(type) {
	case nil:
	case map[string]any:
		f.m = v
	default:
		f.complain("", v, "write a mapping of keys and values")
	}
	return f
}

func (f *fields) name(key string) string {
	switch {
	case f.path == "":
		return key
	case key == "":
		return f.path
	}
	return f.path + "." + key
}

// complain records that a field is bad: its value and the fix.
func (f *fields) complain(key string, value any, fix string) {
	*f.errs = append(*f.errs, fmt.Errorf("%s: %s: %s", f.name(key), show(value), fix))
}

// mistake records that a field is bad, in words that show its value already.
func (f *fields) mistake(key string, err error) {
	*f.errs = append(*f.errs, fmt.Errorf("%s: %s", f.name(key), redact(err.Error())))
}

// take returns the value of a key, and whether it is there and not null.
func (f *fields) take(key string) (any, bool) {
	f.known = append(f.known, key)
	v := f.m[key]
	return v, v != nil
}

// done complains about every key that nobody took.
func (f *fields) done() {
	var unknown []string
	for key := range f.m {
		if !slices.Contains(f.known, key) {
			unknown = append(unknown, key)
		}
	}
	sort.Strings(unknown)
	for _, key := range unknown {
		fix := "there is no such field; the fields are " + strings.Join(f.known, ", ")
		for _, k := range f.known {
			if strings.EqualFold(k, key) {
				fix = "there is no such field; write " + k
			}
		}
		f.complain(key, f.m[key], fix)
	}
}

func (f *fields) str(key string) string {
	v, ok := f.take(key)
	if !ok {
		return ""
	}
	s, isString := v.(string)
	if !isString {
		f.complain(key, v, "write a string, in quotes if it looks like a number or true or false")
	}
	return s
}

func (f *fields) strs(key string) []string {
	v, ok := f.take(key)
	if !ok {
		return nil
	}
	list, isList := v.([]any)
	if !isList {
		f.complain(key, v, "write a list of strings")
		return nil
	}
	out := make([]string, 0, len(list))
	for i, e := range list {
		s, isString := e.(string)
		if !isString || s == "" {
			f.complain(fmt.Sprintf("%s[%d]", key, i), e, "write a string that is not empty")
			continue
		}
		out = append(out, s)
	}
	return out
}

func (f *fields) strMap(key string) map[string]string {
	v, ok := f.take(key)
	if !ok {
		return nil
	}
	m, isMap := v.(map[string]any)
	if !isMap {
		f.complain(key, v, "write a mapping of strings")
		return nil
	}
	out := make(map[string]string, len(m))
	for k, e := range m {
		s, isString := e.(string)
		if !isString {
			f.complain(key+"."+k, e, "write a string, in quotes if it looks like a number or true or false")
			continue
		}
		out[k] = s
	}
	return out
}

// boolean reads true or false; fallback if it is not given.
func (f *fields) boolean(key string, fallback bool) bool {
	v, ok := f.take(key)
	if !ok {
		return fallback
	}
	b, isBool := v.(bool)
	if !isBool {
		f.complain(key, v, "write true or false, without quotes")
	}
	return b
}

// integer reads a whole number from lowest up; fallback if it is not given.
func (f *fields) integer(key string, fallback, lowest int64) int64 {
	v, ok := f.take(key)
	if !ok {
		return fallback
	}
	if n, isNumber := v.(json.Number); isNumber {
		if i, err := n.Int64(); err == nil && i >= lowest {
			return i
		}
	}
	f.complain(key, v, fmt.Sprintf("write a whole number, at least %d", lowest))
	return fallback
}

// fraction reads a number above 0 and at most 1; 0 if it is not given.
func (f *fields) fraction(key string) float64 {
	v, ok := f.take(key)
	if !ok {
		return 0
	}
	if n, isNumber := v.(json.Number); isNumber {
		if x, err := n.Float64(); err == nil && x > 0 && x <= 1 {
			return x
		}
	}
	f.complain(key, v, "write a number above 0 and at most 1")
	return 0
}

// notNegative reads a number, 0 or more; 0 if it is not given.
func (f *fields) notNegative(key string) float64 {
	v, ok := f.take(key)
	if !ok {
		return 0
	}
	if n, isNumber := v.(json.Number); isNumber {
		if x, err := n.Float64(); err == nil && x >= 0 {
			return x
		}
	}
	f.complain(key, v, "write a number, 0 or more")
	return 0
}

// duration reads a span of time above zero; fallback if it is not given.
func (f *fields) duration(key string, fallback time.Duration) time.Duration {
	v, ok := f.take(key)
	if !ok {
		return fallback
	}
	if s, isString := v.(string); isString {
		if d, err := time.ParseDuration(s); err == nil && d > 0 {
			return d
		}
	}
	f.complain(key, v, "write a duration above zero with a unit, as 30s, 10m or 1h")
	return fallback
}

const sizeFix = "write a size in bytes with a unit, as 500Gi, 100G or 500Mi"

// size reads a number of bytes; fallback if it is not given or empty.
func (f *fields) size(key string, fallback int64) int64 {
	v, ok := f.take(key)
	if !ok || v == "" {
		return fallback
	}
	if n, valid := parseSize(v); valid {
		return n
	}
	f.complain(key, v, sizeFix)
	return fallback
}

// share reads a percentage of whole or a number of bytes; fallback if it is not
// given or empty.
func (f *fields) share(key, whole string, fallback Share) Share {
	v, ok := f.take(key)
	if !ok || v == "" {
		return fallback
	}
	if v == "0" || v == json.Number("0") {
		return Share{}
	}
	if p, valid := parsePercent(v); valid {
		return Share{Percent: p}
	}
	if n, valid := parseSize(v); valid {
		return Share{Bytes: n}
	}
	f.complain(key, v, "write a percentage of "+whole+" from 0% to below 100%, as 20%, or a size, as 100Gi")
	return fallback
}

// parseSize accepts what Kubernetes writes for bytes, and plain numbers.
func parseSize(v any) (int64, bool) {
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case json.Number:
		text = v.String()
	default:
		return 0, false
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() <= 0 || strings.HasSuffix(text, "m") || strings.HasSuffix(text, "u") || strings.HasSuffix(text, "n") {
		return 0, false
	}
	return q.Value(), true
}

// parsePercent reads "20%" as 20.
func parsePercent(v any) (float64, bool) {
	s, isString := v.(string)
	digits, isPercent := strings.CutSuffix(s, "%")
	if !isString || !isPercent {
		return 0, false
	}
	p, err := strconv.ParseFloat(digits, 64)
	return p, err == nil && p >= 0 && p < 100
}

// show renders a value of the configuration in one short line.
func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return truncate(redact(fmt.Sprintf("%v", v)), 120)
	}
	return truncate(redact(string(b)), 120)
}
