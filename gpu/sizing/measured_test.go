package sizing

import (
	"math"
	"strings"
	"testing"
)

// TestBesideOfPublicLogs: from the blocks alone comes what vLLM logged as activations and memory outside of PyTorch.
func TestBesideOfPublicLogs(t *testing.T) {
	const logged = 0.02 // what two decimals of each term leave open
	rows := 0
	for _, s := range startups(t) {
		m := shape(t, s.Shape)
		if a := m.Architecture; a.WindowLayers+a.StateLayers > 0 || s.CUDATotalGiB == 0 || s.PipelineParallel > 1 {
			continue // the logs have tokens, not blocks
		}
		rows++
		serving := s.serving("0.19")
		serving.GPUMemoryUtilization = s.GPUMemoryUtilization
		n := need(t, m, serving)
		total := uint64(s.CUDATotalGiB * (1 << 30))
		got, err := n.BesideBytes(total, CacheBlocks{Count: s.KVCacheTokens / blockTokens, Tokens: blockTokens})
		if err != nil {
			t.Errorf("%s on %d GPUs: %v", s.Model, s.TensorParallel, err)
			continue
		}
		// Our weights are not quite vLLM's, and what they differ by is counted here.
		want := s.taken(n.release, n.KVBytesPerToken) - gib(n.WeightsBytes+n.ReplicatedBytes)
		if math.Abs(gib(got)-want) > logged+0.0002*s.KVCacheGiB {
			t.Errorf("%s on %d GPUs: %.3f GiB beside weights and cache; vLLM logged %.3f", s.Model, s.TensorParallel, gib(got), want)
		}
	}
	if rows < 25 {
		t.Errorf("%d rows", rows)
	}
}

// windows are the layers of a model of which some keep a window.
func windows(tb testing.TB) Model {
	tb.Helper()
	m := llama8B(tb)
	m.Architecture.WindowTokens, m.Architecture.WindowLayers, m.Architecture.FullLayers = 1024, 24, 8
	return m
}

func TestBesideBytes(t *testing.T) {
	const total = 80 << 30
	n := need(t, llama8B(t), Serving{MaxModelLen: 32768})
	w := need(t, windows(t), Serving{MaxModelLen: 32768})
	room := n.BudgetBytes(total) - n.WeightsBytes - n.ReplicatedBytes
	// A group of eight layers, with 4 KiB a token and layer.
	const fullBlock, groupBlock = 32 * 4096 * 16, 8 * 4096 * 16
	perRequest := float64(w.KVBytes) / groupBlock
	unknown := need(t, Model{Weights: llama8B(t).Weights, Architecture: Architecture{}}, Serving{MaxModelLen: 1})
	for _, tt := range []struct {
		name   string
		need   Need
		blocks CacheBlocks
		beside uint64 // within a block
		err    string
	}{
		{"as the budget leaves", n, CacheBlocks{Count: (room - 3<<30) / fullBlock, Tokens: 16}, 3 << 30, ""},
		{"longer blocks", n, CacheBlocks{Count: (room - 3<<30) / fullBlock / 8, Tokens: 128, PerRequest: 256}, 3 << 30, ""},
		{"windows", w, CacheBlocks{Count: (room - 3<<30) / groupBlock, Tokens: 16, PerRequest: perRequest}, 3 << 30, ""},
		{"windows, a little else", w, CacheBlocks{Count: (room - 3<<30) / groupBlock, Tokens: 16, PerRequest: perRequest + 3}, 3 << 30, ""},
		{"windows, grouped in another way", w, CacheBlocks{Count: (room - 3<<30) / groupBlock, Tokens: 16, PerRequest: 2 * perRequest}, 0, "in another"},
		{"windows, nothing stated", w, CacheBlocks{Count: 1000, Tokens: 16}, 0, "not stated"},
		{"more than the budget leaves", n, CacheBlocks{Count: room/fullBlock + 1, Tokens: 16}, 0, "more than its budget"},
		{"more than there can be", n, CacheBlocks{Count: math.MaxUint64, Tokens: math.MaxUint64}, 0, "more than its budget"},
		{"nothing", n, CacheBlocks{}, 0, "not known"},
		{"a cache that is a guess", unknown, CacheBlocks{Count: 1000, Tokens: 16}, 0, "not known"},
		{"no model", Need{}, CacheBlocks{Count: 1000, Tokens: 16}, 0, "not known"},
	} {
		got, err := tt.need.BesideBytes(total, tt.blocks)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %d, %v; want an error with %q", tt.name, got, err, tt.err)
			}
			continue
		}
		if err != nil || got < tt.beside || got-tt.beside > tt.blocks.Tokens*32*4096 {
			t.Errorf("%s: %d, %v; want %d", tt.name, got, err, tt.beside)
		}
	}
}

// TestVerdictMeasured: a measurement moves a verdict by one step between fits and tight, and never a no.
func TestVerdictMeasured(t *testing.T) {
	const total = 80 << 30
	m := llama8B(t)
	at := func(bytes uint64) Need { // whose budget is so much
		n := need(t, m, Serving{MaxModelLen: 8192, GPUMemoryUtilization: 0.9})
		n.GPUMemoryUtilization = float64(bytes) / total
		return n
	}
	n := at(total)
	fits, tight, no := at(n.MostBytes()+1<<20), at(n.LeastBytes()+(n.OverheadMaxBytes-n.OverheadMinBytes)/2), at(n.LeastBytes()-1<<20)
	middle := n.OverheadMinBytes + (n.OverheadMaxBytes-n.OverheadMinBytes)/2
	outside := tight
	outside.outside = 70 << 30
	batches, lora := tight, fits
	batches.serving.MaxNumSeqs, lora.serving.Uncounted = 2048, []string{"--enable-lora"}
	for _, tt := range []struct {
		name    string
		need    Need
		free    uint64
		took    uint64
		trusted bool
		want    Verdict
	}{
		{"nothing measured", fits, total, 0, true, Fits},
		{"less than is expected", fits, total, middle, false, Fits},
		{"more than is expected", fits, total, n.OverheadMaxBytes + 2<<20, false, Tight},
		{"more than is expected, trusted", fits, total, n.OverheadMaxBytes + 2<<20, true, Tight},
		{"more than there is", fits, total, math.MaxUint64, false, Tight},
		{"tight, little taken", tight, total, n.OverheadMinBytes, true, Fits},
		{"tight, less than the least", tight, total, 1, true, Fits},
		{"tight, little taken, not trusted", tight, total, n.OverheadMinBytes, false, Tight},
		{"tight, nothing measured", tight, total, 0, true, Tight},
		{"tight, taken to the edge", tight, total, middle - measuredSlack/2, true, Tight},
		{"tight because of what comes after", outside, total, n.OverheadMinBytes, true, Tight},
		{"tight, other batches", batches, total, n.OverheadMinBytes, true, Tight},
		{"more than is expected, of others", lora, total, n.OverheadMaxBytes + 2<<20, false, Fits},
		{"no room", no, total, 1, true, No},
		{"no memory free", tight, 1 << 30, n.OverheadMinBytes, true, No},
	} {
		got, why := tt.need.VerdictMeasured(total, tt.free, Measured{BesideBytes: tt.took, Trusted: tt.trusted})
		if got != tt.want || (why == "") != (got == Fits) {
			t.Errorf("%s: %s %q; want %s", tt.name, got, why, tt.want)
		}
	}
	if _, why := fits.VerdictMeasured(total, total, Measured{BesideBytes: 9 << 30}); !strings.Contains(why, "replicas that run here took 9.00 GiB beside them, more than the ") {
		t.Errorf("the reason is %q", why)
	}
}
