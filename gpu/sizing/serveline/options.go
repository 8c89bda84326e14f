package serveline

import (
	_ "embed"
	"errors"
	"strconv"
	"strings"

	"github.com/stoker-project/stoker/gpu/sizing"
)

// effect is what an option does to the memory that vLLM takes; options.txt has the words.
type effect string

const (
	effectCounted effect = "counted"
	effectNone    effect = "none"
	effectMemory  effect = "memory"
	effectOn      effect = "on"
	effectDefault effect = "default"
)

// option is one of the options of `vllm serve`.
type option struct {
	names    []string
	effect   effect
	defaults []string
	// flag and value set what an option says that counts: one of them, by whether it takes a value.
	flag  func(s *sizing.Serving, on bool)
	value func(s *sizing.Serving, value string) error
}

type options []option

//go:embed options.txt
var optionsText string

// table is every option, those that count with what they set.
func table() options {
	var all options
	counted := countedOptions()
	for line := range strings.Lines(optionsText) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] == "#" {
			continue
		}
		names := strings.Split(words[0], ",")
		o := counted[names[0]]
		o.names, o.effect = names, effect(words[1])
		if len(words) > 2 {
			o.defaults = strings.Split(words[2], ",")
		}
		all = append(all, o)
	}
	return all
}

// find looks an option up by a name of it, by its negation, or by the beginning of its only long name.
func (all options) find(name string) (o option, negated, known bool) {
	var begun []option
	var negatedToo bool
	for _, o := range all {
		for _, have := range o.names {
			positive, negatives := have, negations(have)
			if name == positive {
				return o, false, true
			}
			for _, n := range negatives {
				if name == n {
					return o, true, true
				}
			}
			if !strings.HasPrefix(name, "--") || len(name) < 3 {
				continue
			}
			if strings.HasPrefix(positive, name) {
				begun, negatedToo = append(begun, o), false
			} else if strings.HasPrefix("--no-"+strings.TrimPrefix(positive, "--"), name) && strings.HasPrefix(name, "--no-") {
				begun, negatedToo = append(begun, o), true
			}
		}
	}
	if len(begun) == 1 {
		return begun[0], negatedToo, true
	}
	return option{}, false, false
}

// negations are the names that turn a flag off: --no-..., and --disable-... of --enable-... and the other way round
// (utils/argparse_utils.py, EnableDisableAction).
func negations(name string) []string {
	plain, long := strings.CutPrefix(name, "--")
	if !long {
		return nil
	}
	list := []string{"--no-" + plain}
	if rest, ok := strings.CutPrefix(plain, "enable-"); ok {
		list = append(list, "--disable-"+rest)
	}
	if rest, ok := strings.CutPrefix(plain, "disable-"); ok {
		list = append(list, "--enable-"+rest)
	}
	return list
}

// countedOptions are the options that sizing counts, by their first name.
func countedOptions() map[string]option {
	flag := func(set func(s *sizing.Serving, on bool)) option { return option{flag: set} }
	whole := func(into func(s *sizing.Serving, n int64)) option {
		return option{value: func(s *sizing.Serving, value string) error {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 32)
			if err != nil || n < 1 {
				return errors.New("it takes a whole number, 1 or more")
			}
			into(s, n)
			return nil
		}}
	}
	count := func(parse func(string) (int64, error), into func(s *sizing.Serving) *int64) option {
		return option{value: func(s *sizing.Serving, value string) (err error) {
			if *into(s) = 0; value != "" {
				*into(s), err = parse(value)
			}
			return err
		}}
	}
	number := func(what string, right func(float64) bool, into func(s *sizing.Serving) *float64) option {
		return option{value: func(s *sizing.Serving, value string) error {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil || !right(f) {
				return errors.New("it takes " + what)
			}
			*into(s) = f
			return nil
		}}
	}
	text := func(into func(s *sizing.Serving) *string) option {
		return option{value: func(s *sizing.Serving, value string) error {
			if leading(value) != value {
				return errors.New("it takes one word of letters, digits, dots, dashes and underscores")
			}
			*into(s) = value
			return nil
		}}
	}
	return map[string]option{
		"--tensor-parallel-size":   whole(func(s *sizing.Serving, n int64) { s.TensorParallel = int(n) }),
		"--pipeline-parallel-size": whole(func(s *sizing.Serving, n int64) { s.PipelineParallel = int(n) }),
		"--nnodes":                 whole(func(s *sizing.Serving, n int64) { s.Nodes = int(n) }),
		"--max-num-seqs":           whole(func(s *sizing.Serving, n int64) { s.MaxNumSeqs = n }),
		"--max-num-batched-tokens": count(ParseCount, func(s *sizing.Serving) *int64 { return &s.MaxNumBatchedTokens }),
		"--max-model-len":          count(ParseLength, func(s *sizing.Serving) *int64 { return &s.MaxModelLen }),
		"--gpu-memory-utilization": number("a fraction above 0 and at most 1", func(f float64) bool { return f > 0 && f <= 1 }, func(s *sizing.Serving) *float64 { return &s.GPUMemoryUtilization }),
		"--cpu-offload-gb":         number("a size in GiB, not negative", func(f float64) bool { return f >= 0 }, func(s *sizing.Serving) *float64 { return &s.CPUOffloadGB }),
		"--kv-cache-dtype":         text(func(s *sizing.Serving) *string { return &s.KVCacheDtype }),
		"--quantization":           text(func(s *sizing.Serving) *string { return &s.Quantization }),
		"--dtype":                  text(func(s *sizing.Serving) *string { return &s.Dtype }),
		"--config":                 text(func(*sizing.Serving) *string { return new(string) }),
		"--enforce-eager":          flag(func(s *sizing.Serving, on bool) { s.EnforceEager = on }),
		"--enable-chunked-prefill": flag(func(s *sizing.Serving, on bool) { s.WholePrompts = !on }),
		"--async-scheduling":       flag(func(s *sizing.Serving, on bool) { s.OneBatch = !on }),
		"--enable-prefix-caching":  flag(func(s *sizing.Serving, on bool) { s.NoPrefixCaching = !on }),
	}
}
