package measure

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/stoker-project/stoker/gpu/sizing"
)

// ErrNotMeasurable is a replica whose cache says nothing of the memory that it takes: what was asked for is not what the
// budget left. It stays so for as long as the replica runs.
var ErrNotMeasurable = errors.New("its memory cannot be measured")

// ErrPage is a page that is not vLLM's.
var ErrPage = errors.New("it is no metrics page of vLLM")

// Bounds of a page.
const (
	// MaxPage is how long a page may be, in bytes. A real one has 60 KiB.
	MaxPage = 1 << 20
	// maxLabels bounds the labels of the one sample that is read, maxValue the bytes of a value. vLLM 0.32 has 37 of them.
	maxLabels = 128
	maxValue  = 4096
	// maxBlocks and maxBlockTokens are far more than any GPU has, and no product of the two overflows.
	maxBlocks      = 1 << 36
	maxBlockTokens = 1 << 24
	maxTokens      = 1 << 40
)

// Page is what a replica states of its KV cache, by the sample vllm:cache_config_info of its metrics page
// (v1/metrics/loggers.py, log_metrics_info; the labels are the fields of config/cache.py).
type Page struct {
	// Blocks is num_gpu_blocks, and BlockTokens block_size.
	Blocks, BlockTokens uint64
	// GPUMemoryUtilization is gpu_memory_utilization, above 0 and at most 1.
	GPUMemoryUtilization float64
	// CacheDtype is cache_dtype: auto, or a type whose size is known: [sizing.DoubtKVCacheDtype] has no doubt.
	CacheDtype string
	// MaxModelLen is the longest request in tokens, and RequestBlocks how many blocks it takes: from
	// kv_cache_size_tokens and kv_cache_max_concurrency (v1/core/kv_cache_utils.py, get_kv_cache_capacity). 0: not stated,
	// as by releases that have no such labels.
	MaxModelLen   int64
	RequestBlocks float64
}

// CacheBlocks is the page as sizing takes it.
func (p Page) CacheBlocks() sizing.CacheBlocks {
	return sizing.CacheBlocks{Count: p.Blocks, Tokens: p.BlockTokens, PerRequest: p.RequestBlocks}
}

const cacheInfo = "vllm:cache_config_info{"

// ParsePage reads a metrics page in Prometheus' text format. It fails with ErrPage, or with ErrNotMeasurable where the
// cache has a size that somebody chose, belongs to several engines or is split in a way that the sum does not know.
func ParsePage(data []byte) (Page, error) {
	if len(data) > MaxPage {
		return Page{}, fmt.Errorf("%w: it is longer than %d bytes", ErrPage, MaxPage)
	}
	var found map[string]string
	for line := range bytes.Lines(data) {
		sample, ok := bytes.CutPrefix(line, []byte(cacheInfo))
		if !ok {
			continue
		}
		if found != nil {
			// Then num_gpu_blocks is the sum of all (v1/engine/core_client.py).
			return Page{}, fmt.Errorf("%w: it has several engines (data parallelism)", ErrNotMeasurable)
		}
		var err error
		if found, err = parseLabels(sample); err != nil {
			return Page{}, err
		}
	}
	if found == nil {
		return Page{}, fmt.Errorf("%w: it lacks vllm:cache_config_info", ErrPage)
	}
	return pageOf(found)
}

// pageOf takes from the labels what is needed, and refuses what it cannot be computed with.
func pageOf(labels map[string]string) (Page, error) {
	for _, chosen := range []struct{ label, why string }{
		{"kv_cache_memory_bytes", "its cache has the size that --kv-cache-memory-bytes names"},
		{"num_gpu_blocks_override", "its cache has as many blocks as --num-gpu-blocks-override names"},
	} {
		if v := labels[chosen.label]; v != "" && v != none {
			return Page{}, fmt.Errorf("%w: %s", ErrNotMeasurable, chosen.why)
		}
	}
	if labels["is_attention_free"] == "True" {
		return Page{}, fmt.Errorf("%w: its model has no KV cache", ErrNotMeasurable)
	}
	if v := labels["kv_cache_dtype_skip_layers"]; v != "" && v != none && v != "[]" {
		return Page{}, fmt.Errorf("%w: some layers cache in another type", ErrNotMeasurable)
	}
	if v := labels["effective_attention_block_size"]; v != "" && v != none && v != labels["block_size"] {
		return Page{}, fmt.Errorf("%w: its cache is split over GPUs (context parallelism)", ErrNotMeasurable)
	}
	var p Page
	var err error
	if p.Blocks, err = number(labels, "num_gpu_blocks", maxBlocks); err != nil {
		return Page{}, err
	}
	if p.BlockTokens, err = number(labels, "block_size", maxBlockTokens); err != nil {
		return Page{}, err
	}
	share, err := strconv.ParseFloat(labels["gpu_memory_utilization"], 64)
	if err != nil || !(share > 0 && share <= 1) { // so that NaN is refused
		return Page{}, fmt.Errorf("%w: its gpu_memory_utilization is no share of a memory", ErrPage)
	}
	p.GPUMemoryUtilization, p.CacheDtype = share, labels["cache_dtype"]
	if sizing.DoubtKVCacheDtype(p.CacheDtype) != "" {
		return Page{}, fmt.Errorf("%w: the size of its cache's type is not known", ErrNotMeasurable)
	}
	p.addLength(labels)
	return p, nil
}

// addLength derives the longest request: the tokens that the cache is said to hold are that length times the requests
// that fit at once, rounded down.
func (p *Page) addLength(labels map[string]string) {
	tokens, err := number(labels, "kv_cache_size_tokens", maxTokens)
	if err != nil {
		return
	}
	requests, err := strconv.ParseFloat(labels["kv_cache_max_concurrency"], 64)
	if err != nil || !(requests >= 1 && requests <= float64(p.Blocks)) {
		return
	}
	const rounding = 1e-6
	p.MaxModelLen = int64(math.Ceil(float64(tokens)/requests - rounding))
	p.RequestBlocks = float64(p.Blocks) / requests
}

// none is how Python writes that something is not set.
const none = "None"

// number reads a label as a whole number from 1 to most.
func number(labels map[string]string, name string, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(labels[name], 10, 64)
	if err != nil || n == 0 || n > most {
		return 0, fmt.Errorf("%w: its %s is no number that can be", ErrPage, name)
	}
	return n, nil
}

// parseLabels reads what follows a sample's opening brace: its labels, and the value 1 that an information has.
func parseLabels(line []byte) (map[string]string, error) {
	bad := fmt.Errorf("%w: vllm:cache_config_info cannot be read", ErrPage)
	labels := map[string]string{}
	for {
		line = bytes.TrimLeft(line, " \t")
		if rest, ok := bytes.CutPrefix(line, []byte("}")); ok {
			value, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" ")) // a time may follow
			if v, err := strconv.ParseFloat(string(value[:min(len(value), 32)]), 64); err != nil || v != 1 {
				return nil, bad
			}
			return labels, nil
		}
		name, rest, ok := bytes.Cut(line, []byte("="))
		name = bytes.TrimSpace(name)
		if !ok || !isLabelName(name) || len(labels) == maxLabels {
			return nil, bad
		}
		value, rest, ok := unquote(bytes.TrimLeft(rest, " \t"))
		if _, twice := labels[string(name)]; !ok || twice {
			return nil, bad
		}
		labels[string(name)] = value
		line = bytes.TrimLeft(rest, " \t")
		if rest, ok := bytes.CutPrefix(line, []byte(",")); ok {
			line = rest
		} else if !bytes.HasPrefix(line, []byte("}")) {
			return nil, bad
		}
	}
}

// isLabelName reports whether it is a label's name of at most 128 letters, digits and underscores.
func isLabelName(name []byte) bool {
	for i, c := range name {
		letter := c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return len(name) > 0 && len(name) <= 128
}

// unquote reads a quoted value, in which a backslash stands before a backslash, a quote and the n of a new line, and
// returns what follows it.
func unquote(text []byte) (value string, rest []byte, ok bool) {
	if len(text) == 0 || text[0] != '"' {
		return "", nil, false
	}
	var out []byte
	for i := 1; i < len(text) && len(out) <= maxValue; i++ {
		switch c := text[i]; c {
		case '"':
			return string(out), text[i+1:], true
		case '\\':
			if i++; i == len(text) {
				return "", nil, false
			}
			switch text[i] {
			case 'n':
				out = append(out, '\n')
			case '\\', '"':
				out = append(out, text[i])
			default:
				return "", nil, false
			}
		default:
			out = append(out, c)
		}
	}
	return "", nil, false
}
