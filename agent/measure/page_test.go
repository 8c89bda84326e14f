package measure

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// publicPage is a page of vLLM 0.32.0, published with it: idle or load. Its cache has a fixed size; measured is the same
// page with one that the budget left.
func publicPage(tb testing.TB, name string) string {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "metrics-0.32.0-"+name+".txt"))
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

func measured(page string) string {
	return strings.Replace(page, `kv_cache_memory_bytes="1073741824"`, `kv_cache_memory_bytes="None"`, 1)
}

func TestPublicPages(t *testing.T) {
	for _, name := range []string{"idle", "load"} {
		page := publicPage(t, name)
		if _, err := ParsePage([]byte(page)); !errors.Is(err, ErrNotMeasurable) || !strings.Contains(err.Error(), "--kv-cache-memory-bytes") {
			t.Errorf("%s: %v", name, err)
		}
		got, err := ParsePage([]byte(measured(page)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := Page{Blocks: 195, BlockTokens: 128, GPUMemoryUtilization: 0.92, CacheDtype: "auto", MaxModelLen: 2048, RequestBlocks: 16}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// cache is a page with one sample, of labels that are changed and added to.
func cache(changes ...string) string {
	labels := map[string]string{
		"block_size": "16", "cache_dtype": "auto", "gpu_memory_utilization": "0.9", "num_gpu_blocks": "1000",
		"kv_cache_memory_bytes": "None", "num_gpu_blocks_override": "None", "engine": "0",
	}
	for i := 0; i < len(changes); i += 2 {
		labels[changes[i]] = changes[i+1]
	}
	var pairs []string
	for name, value := range labels {
		pairs = append(pairs, name+`="`+value+`"`)
	}
	return cacheInfo + strings.Join(pairs, ",") + "} 1.0\n"
}

func TestParsePage(t *testing.T) {
	plain := Page{Blocks: 1000, BlockTokens: 16, GPUMemoryUtilization: 0.9, CacheDtype: "auto"}
	for _, tt := range []struct {
		name, page string
		want       Page
		err        error
		says       string
	}{
		{"an older release", cache(), plain, nil, ""},
		{"spaces, a time and a comma at the end", cacheInfo + ` block_size = "16", num_gpu_blocks="1000",gpu_memory_utilization="0.9",cache_dtype="auto", } 1 1700000000` + "\n", plain, nil, ""},
		{"no line end", strings.TrimSuffix(cache(), "\n"), plain, nil, ""},
		{"escapes elsewhere", cache("x", `a\\b\"c\nd`), plain, nil, ""},
		{"lengths that fit no request", cache("kv_cache_size_tokens", "16000", "kv_cache_max_concurrency", "0.5"), plain, nil, ""},
		{"lengths that are no numbers", cache("kv_cache_size_tokens", "16000", "kv_cache_max_concurrency", "NaN"), plain, nil, ""},
		{"empty", "", Page{}, ErrPage, "lacks"},
		{"another program's", "go_goroutines 4\n# vllm:cache_config_info{\n", Page{}, ErrPage, "lacks"},
		{"a family that begins alike", strings.Replace(cache(), "_info{", "_info_x{", 1), Page{}, ErrPage, "lacks"},
		{"too long", cache() + strings.Repeat("x", MaxPage), Page{}, ErrPage, "longer"},
		{"two engines", cache() + cache("engine", "1"), Page{}, ErrNotMeasurable, "engines"},
		{"blocks that were chosen", cache("num_gpu_blocks_override", "7"), Page{}, ErrNotMeasurable, "override"},
		{"no cache", cache("is_attention_free", "True"), Page{}, ErrNotMeasurable, "no KV cache"},
		{"context parallel", cache("effective_attention_block_size", "32"), Page{}, ErrNotMeasurable, "context"},
		{"layers of another type", cache("kv_cache_dtype_skip_layers", "['0']"), Page{}, ErrNotMeasurable, "type"},
		{"a type of no known size", cache("cache_dtype", "turboquant_k8v4"), Page{}, ErrNotMeasurable, "type"},
		{"a type that does not exist", cache("cache_dtype", strings.Repeat("y", 4000)), Page{}, ErrNotMeasurable, "type"},
		{"no blocks", cache("num_gpu_blocks", "None"), Page{}, ErrPage, "num_gpu_blocks"},
		{"zero blocks", cache("num_gpu_blocks", "0"), Page{}, ErrPage, "num_gpu_blocks"},
		{"blocks without end", cache("num_gpu_blocks", "18446744073709551615"), Page{}, ErrPage, "num_gpu_blocks"},
		{"blocks below zero", cache("num_gpu_blocks", "-5"), Page{}, ErrPage, "num_gpu_blocks"},
		{"blocks without tokens", cache("block_size", ""), Page{}, ErrPage, "block_size"},
		{"no share", cache("gpu_memory_utilization", "NaN"), Page{}, ErrPage, "utilization"},
		{"more than all", cache("gpu_memory_utilization", "1.1"), Page{}, ErrPage, "utilization"},
		{"another value", strings.Replace(cache(), "} 1.0", "} 2.0", 1), Page{}, ErrPage, "read"},
		{"no value", strings.Replace(cache(), "} 1.0", "}", 1), Page{}, ErrPage, "read"},
		{"a label twice", strings.Replace(cache(), "{", `{block_size="32",`, 1), Page{}, ErrPage, "read"},
		{"a value too long", cache("x", strings.Repeat("y", maxValue+2)), Page{}, ErrPage, "read"},
		{"a name too long", cache(strings.Repeat("y", 129), ""), Page{}, ErrPage, "read"},
		{"a name that is none", cache("a-b", ""), Page{}, ErrPage, "read"},
		{"an escape that is none", cache("x", `\t`), Page{}, ErrPage, "read"},
		{"cut in a value", cacheInfo + `block_size="1`, Page{}, ErrPage, "read"},
		{"cut in an escape", cacheInfo + `block_size="1\`, Page{}, ErrPage, "read"},
		{"cut behind a name", cacheInfo + `block_size=`, Page{}, ErrPage, "read"},
		{"labels without commas", cacheInfo + `a="1"b="2"} 1`, Page{}, ErrPage, "read"},
		{"labels without end", cacheInfo + manyLabels(), Page{}, ErrPage, "read"},
	} {
		got, err := ParsePage([]byte(tt.page))
		if got != tt.want || !errors.Is(err, tt.err) || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %+v, %v; want %+v, %v", tt.name, got, err, tt.want, tt.err)
		}
		if err != nil && (len(err.Error()) > 200 || strings.Contains(err.Error(), "yyy")) {
			t.Errorf("%s: the error repeats the page: %.300s", tt.name, err)
		}
	}
}

func manyLabels() string {
	var b strings.Builder
	for i := range maxLabels + 1 {
		b.WriteString("l" + strings.Repeat("x", i%100) + string(rune('a'+i/100)) + `="1",`)
	}
	return b.String() + "} 1\n"
}

// FuzzPage: whatever a pod answers, it is a page whose numbers are in their bounds, or an error that is short.
func FuzzPage(f *testing.F) {
	f.Add([]byte(cache()))
	f.Add([]byte(cache("kv_cache_size_tokens", "24960", "kv_cache_max_concurrency", "12.1875", "x", `\\\"\n`)))
	f.Add([]byte(cacheInfo + `a="1",} 1 1700000000`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePage(text)
		if err != nil {
			if !errors.Is(err, ErrPage) && !errors.Is(err, ErrNotMeasurable) || len(err.Error()) > 200 {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if p.Blocks == 0 || p.Blocks > maxBlocks || p.BlockTokens == 0 || p.BlockTokens > maxBlockTokens || p.MaxModelLen < 0 || p.MaxModelLen > maxTokens ||
			!(p.GPUMemoryUtilization > 0 && p.GPUMemoryUtilization <= 1) || !(p.RequestBlocks >= 0 && p.RequestBlocks <= float64(p.Blocks)) {
			t.Errorf("%q: %+v", text, p)
		}
	})
}
