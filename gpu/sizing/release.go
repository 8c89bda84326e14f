package sizing

import (
	"fmt"
	"strconv"
	"strings"
)

// DefaultVLLMVersion is the release whose rules the sums follow where none is named.
const DefaultVLLMVersion = "0.33"

// The releases whose rules are known here. A test of each release's own source says where one of them moved.
const oldestMinor, newestMinor = 19, 33

// release is a release of vLLM, by its minor number: 0.33 is 33. The rules that differ are its methods; each names the
// file of vLLM's source that holds it.
type release int

// parseRelease reads a version like 0.33, 0.33.0 or v0.33.1; "" is the default.
func parseRelease(version string) (release, error) {
	if version == "" {
		version = DefaultVLLMVersion
	}
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	bad := fmt.Errorf("vLLM's version is %q; want one from 0.%d to 0.%d, whose rules are known here", version, oldestMinor, newestMinor)
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "0" {
		return 0, bad
	}
	minor, err := strconv.ParseUint(parts[1], 10, 16)
	if err != nil || minor < oldestMinor || minor > newestMinor {
		return 0, bad
	}
	if len(parts) == 3 {
		if patch, _, _ := strings.Cut(parts[2], "post"); patch == "" || strings.Trim(patch, "0123456789") != "" {
			return 0, bad
		}
	}
	return release(minor), nil
}

// CheckVLLMVersion refuses a version whose rules are not known here.
func CheckVLLMVersion(version string) error {
	_, err := parseRelease(version)
	return err
}

// SameVLLMRelease reports whether two versions are of one release, whose rules are the same: like 0.33 and 0.33.1. One that
// is empty or whose rules are not known here is of none.
func SameVLLMRelease(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	x, errX := parseRelease(a)
	y, errY := parseRelease(b)
	return errX == nil && errY == nil && x == y
}

func (r release) String() string { return "0." + strconv.Itoa(int(r)) }

// utilization is the default of --gpu-memory-utilization (config/cache.py).
func (r release) utilization() float64 {
	if r < 20 {
		return 0.9
	}
	return 0.92
}

// graphsInBudget: CUDA graphs are measured before, and their memory is no room for the cache (envs.py,
// VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS). vLLM's own words say since 0.21; the source of 0.20.0 has it.
func (r release) graphsInBudget() bool { return r >= 20 }

// reservesNullBlock: the block that the pool holds back is counted (v1/core/kv_cache_utils.py, check_enough_kv_cache_memory).
func (r release) reservesNullBlock() bool { return r >= 29 }

// batchesInFlight is how many batches a window keeps tokens of: with asynchronous scheduling, the default, two
// (config/vllm.py, max_in_flight_tokens).
func (r release) batchesInFlight() uint64 {
	if r >= 26 {
		return 2
	}
	return 1
}

// cachesPrefixesOfHybrids: prefix caching is the default of models with states, too, which then keep two blocks of each
// (config/model.py, is_prefix_caching_supported; v1/kv_cache_interface.py, MambaSpec).
func (r release) cachesPrefixesOfHybrids() bool { return r >= 26 }

// needsBlockForEachRequest: with CUDA graphs, models with states refuse to start where the cache has fewer blocks than a
// batch may have requests (config/compilation.py, resolve_cudagraph_mode_and_sizes). Before, fewer graphs were captured.
func (r release) needsBlockForEachRequest() bool { return r >= 20 }

// scalesYaRN: the length of a model with YaRN is the original one times the factor; later it is what the file says
// (config/model.py, _get_and_verify_max_len).
func (r release) scalesYaRN() bool { return r < 30 }

// mostLogitBytes is the most that the sampler takes of what leastLogitBytes is the least of.
const mostLogitBytes = 15

// leastLogitBytes is the least that the sampler takes of each sequence and word of the vocabulary while vLLM
// measures (v1/worker/gpu_model_runner.py and, since 0.22, v1/worker/gpu/model_runner.py, _dummy_sampler_run): logits in
// the model's type, the same in float32, their softmax and noise for it. The newer sampler works in place.
func (r release) leastLogitBytes() uint64 {
	if r >= 22 {
		return 6
	}
	return 14
}

// batch is what vLLM takes at once.
type batch struct {
	tokens, sequences uint64
	small             bool // on a GPU of the lower defaults
}

// batch is the default for the API server. It depends on the GPU (engine/arg_utils.py, get_batch_defaults).
func (r release) batch(totalBytes uint64, name string) batch {
	name = strings.ToLower(name)
	switch {
	case r >= 28 && totalBytes >= 160<<30:
		return batch{16384, 1024, false}
	case totalBytes < 70<<30, strings.Contains(name, "a100"), r >= 33 && strings.Contains(name, "gb10"):
		return batch{2048, 256, true}
	}
	return batch{8192, 1024, false}
}
