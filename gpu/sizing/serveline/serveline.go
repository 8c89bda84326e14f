// Package serveline reads a command line of vLLM for what it says of GPU memory: it turns the words behind `vllm serve`
// into a [sizing.Serving]. It knows every option of the release that sizing.DefaultVLLMVersion names, by the same rules
// as vLLM's parser (utils/argparse_utils.py): underscores for dashes, short names, beginnings of names, values behind =,
// --no-... and a file of further options. It knows nothing of models, and reads no files itself.
package serveline

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/stoker-project/stoker/gpu/sizing"
)

// Read returns s with what the words of a command line say, which come last and win. The words may be a whole command
// line (vllm serve MODEL --max-num-seqs 8), which starts on one GPU unless it says otherwise, or only options of one.
// Which model they name is not looked at.
//
// open reads the file that --config names. Where it cannot, as with everything that may change the memory and is not
// counted, the option is among the Uncounted. It fails where vLLM would refuse a value that counts.
//
// A command line may hold keys, and a word of it may hold more than one option. So Uncounted and errors repeat only the
// letters, digits and -_. that a name or a value that counts begins with.
func Read(s sizing.Serving, words []string, open func(name string) ([]byte, error)) (sizing.Serving, error) {
	r := reader{serving: s, options: table()}
	r.serving.Uncounted = slices.Clone(s.Uncounted)
	words, whole := r.arguments(words)
	if i := slices.Index(words, "--config"); i >= 0 && i+1 < len(words) {
		further, err := fromFile(words[i+1], open)
		if err != nil {
			r.doubt(fmt.Sprintf("--config (%v)", withoutPath(err)))
		}
		words = slices.Concat(further, words[:i], words[i+2:])
	}
	for r.words = words; len(r.words) > 0; {
		r.next()
	}
	if err := errors.Join(r.errs...); err != nil {
		return sizing.Serving{}, err
	}
	if whole && r.serving.TensorParallel == 0 {
		r.serving.TensorParallel = 1
	}
	return r.serving, r.serving.Check()
}

type reader struct {
	serving sizing.Serving
	options options
	words   []string
	// secret is the option before the next word, if its value is a key.
	secret string
	errs   []error
}

// doubt says that something is not counted, once.
func (r *reader) doubt(what string) {
	if !slices.Contains(r.serving.Uncounted, what) {
		r.serving.Uncounted = append(r.serving.Uncounted, what)
	}
}

// arguments are the words behind the program's name, its subcommand, and variables before it; whole reports whether those
// are there.
func (r *reader) arguments(words []string) (rest []string, whole bool) {
	rest = words
	for len(rest) > 0 {
		name, _, isVariable := strings.Cut(rest[0], "=")
		if !isVariable || strings.HasPrefix(name, "-") {
			break
		}
		if strings.HasPrefix(name, "VLLM_") {
			r.doubt(leading(name))
		}
		rest = rest[1:]
	}
	for i, word := range rest {
		switch {
		case word == "serve", word == "vllm.entrypoints.openai.api_server":
			return rest[i+1:], true
		case strings.HasPrefix(word, "--"):
			return rest, false
		}
	}
	return rest, false
}

// leading returns what of a word may be repeated: the rest may be a value that stands in the same word, such as a key.
func leading(word string) string {
	isName := func(c rune) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-_.", c)
	}
	if end := strings.IndexFunc(word, func(c rune) bool { return !isName(c) }); end >= 0 {
		return word[:end]
	}
	return word
}

// withoutPath leaves the name of a file out of an error: it is a word of the command line.
func withoutPath(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// secretOptions returns the options whose value is a key. A word behind one is never repeated, even where it begins like
// an option and vLLM's parser therefore refuses it as a value.
func secretOptions() []string { return []string{"--api-key", "--hf-token"} }

// next reads one option and its value. What is no option is the model, or a value of an option that does not count.
func (r *reader) next() {
	word := r.words[0]
	r.words = r.words[1:]
	secret := r.secret
	r.secret = ""
	if !strings.HasPrefix(word, "-") || word == "-" || word == "--" || isNumber(word) {
		return
	}
	name, value, hasValue := strings.Cut(word, "=")
	if strings.HasPrefix(name, "--") {
		before, after, dotted := strings.Cut(name, ".")
		name = strings.ReplaceAll(before, "_", "-")
		if dotted { // --option.key is a part of a JSON object
			r.uncounted(name, name+"."+after, secret)
			return
		}
	} else if short, level, ok := optimizationLevel(word); ok {
		name, value, hasValue = short, level, level != ""
	}
	o, negated, known := r.options.find(name)
	switch {
	case !known && secret != "":
		r.doubt("a word behind " + secret + " that is no option")
	case !known:
		r.doubt(leading(name))
	case o.effect == effectNone:
		if slices.Contains(secretOptions(), o.names[0]) && !hasValue {
			r.secret = o.names[0]
		}
	case o.effect == effectCounted:
		r.count(o, name, negated, value, hasValue)
	case o.effect == effectOn:
		if !negated {
			r.doubt(o.names[0])
		}
	case o.effect == effectDefault:
		if negated {
			r.doubt(name)
		}
	default:
		if !hasValue && len(r.words) > 0 {
			value = r.words[0]
		}
		if negated || !slices.Contains(o.defaults, value) {
			r.doubt(o.names[0])
		}
	}
}

// uncounted is an option that is part of another, which alone is in the table.
func (r *reader) uncounted(name, what, secret string) {
	switch o, _, known := r.options.find(name); {
	case !known && secret != "":
		r.doubt("a word behind " + secret + " that is no option")
	case !known || o.effect != effectNone:
		r.doubt(leading(what))
	}
}

// optimizationLevel reads -O, which alone may have its value behind it without a space.
func optimizationLevel(word string) (name, level string, ok bool) {
	level, ok = strings.CutPrefix(word, "-O")
	return "--optimization-level", strings.TrimPrefix(level, "="), ok
}

// count sets what an option that counts says.
func (r *reader) count(o option, name string, negated bool, value string, hasValue bool) {
	if o.flag != nil {
		if hasValue {
			r.refuse(name, value, "it takes no value")
			return
		}
		o.flag(&r.serving, !negated)
		return
	}
	if !hasValue {
		// A word that begins like an option is none, but for negative numbers.
		if len(r.words) == 0 || strings.HasPrefix(r.words[0], "-") && !isNumber(r.words[0]) {
			r.refuse(name, "", "it takes a value")
			return
		}
		value, r.words = r.words[0], r.words[1:]
	}
	if o.names[0] == "--config" { // vLLM reads the file only where the name stands behind a space
		r.doubt("--config=")
		return
	}
	if value == "None" { // vLLM's word for the default
		value = ""
	}
	if err := o.value(&r.serving, value); err != nil {
		r.refuse(name, value, err.Error())
	}
}

func (r *reader) refuse(name, value, why string) {
	if shown := leading(value); shown != value {
		value = shown + "..."
	}
	r.errs = append(r.errs, fmt.Errorf("%s %q: %s", leading(name), value, why))
}

// isNumber reports whether a word is a number, which may be negative and then begins like an option.
func isNumber(word string) bool {
	_, err := strconv.ParseFloat(word, 64)
	return err == nil && strings.ContainsAny(word[:min(len(word), 2)], ".0123456789")
}

// ParseCount reads a number as vLLM does where it may be large (utils/argparse_utils.py, human_readable_int): 1k is 1000,
// 1K is 1024, and 25.6k is 25600. It is at least 1.
func ParseCount(text string) (int64, error) {
	text = strings.TrimSpace(text)
	bad := errors.New("it takes a whole number, 1 or more, like 4096, 4k or 4K")
	scale, decimal := int64(1), false
	if i := strings.IndexAny(text, "kKmMgGtT"); i >= 0 && i == len(text)-1 {
		scales := map[byte]int64{'k': 1e3, 'm': 1e6, 'g': 1e9, 't': 1e12, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
		scale, decimal = scales[text[i]], text[i] >= 'a'
		text = text[:i]
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n < 1 || n > math.MaxInt64/scale {
			return 0, bad
		}
		return n * scale, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !decimal || strings.Trim(text, "0123456789.") != "" || !(f*float64(scale) >= 1 && f*float64(scale) < math.MaxInt64) {
		return 0, bad
	}
	return int64(f * float64(scale)), nil
}

// ParseLength reads the longest request: a count, or auto (or -1), which is [sizing.AutoLength].
func ParseLength(text string) (int64, error) {
	if text = strings.TrimSpace(text); text == "-1" || strings.EqualFold(text, "auto") {
		return sizing.AutoLength, nil
	}
	n, err := ParseCount(text)
	if err != nil {
		return 0, fmt.Errorf("%w, or auto", err)
	}
	return n, nil
}
