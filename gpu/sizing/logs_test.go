package sizing

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
)

// startup is what vLLM logged when it started, a row of testdata/logs.json. Sizes are in GiB with two decimals, as vLLM
// prints them; 0 is what the log does not have.
type startup struct {
	Model                string  `json:"model"`
	Shape                string  `json:"shape"`
	TensorParallel       int     `json:"tensorParallel"`
	PipelineParallel     int     `json:"pipelineParallel"`
	MaxModelLen          int64   `json:"maxModelLen"`
	DType                string  `json:"dtype"`
	Quantization         string  `json:"quantization"`
	KVCacheDtype         string  `json:"kvCacheDtype"`
	GPUMemoryUtilization float64 `json:"gpuMemoryUtilization"`
	WeightsGiB           float64 `json:"weightsGiB"`
	ActivationsGiB       float64 `json:"activationsGiB"`
	NonTorchGiB          float64 `json:"nonTorchGiB"`
	KVCacheGiB           float64 `json:"kvCacheGiB"`
	KVCacheTokens        uint64  `json:"kvCacheTokens"`
	CUDAGraphsGiB        float64 `json:"cudaGraphsGiB"`
	CUDATotalGiB         float64 `json:"cudaTotalGiB"`
	VLLM                 string  `json:"vllm"`
	Started              bool    `json:"started"`
	Error                string  `json:"error"`
}

// measured reports whether the row has all terms.
func (s startup) measured() bool { return s.Shape != "" && s.ActivationsGiB > 0 }

func (s startup) serving(version string) Serving {
	serving := Serving{
		TensorParallel: s.TensorParallel, PipelineParallel: s.PipelineParallel, MaxModelLen: s.MaxModelLen, KVCacheDtype: s.KVCacheDtype,
		Dtype: s.DType, VLLMVersion: version,
	}
	if s.Quantization == "fp8" { // the others are the log's words for what config.json states
		serving.Quantization = s.Quantization
	}
	return serving
}

// arguments are what sets a row apart from others of the same model.
func (s startup) arguments() string {
	var words []string
	if s.PipelineParallel > 1 {
		words = append(words, fmt.Sprintf("%d stages", s.PipelineParallel))
	}
	if s.DType == "float32" {
		words = append(words, s.DType)
	}
	if s.Quantization == "fp8" {
		words = append(words, "fp8 when loaded")
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, ", ") + ")"
}

func gib(bytes uint64) float64 { return float64(bytes) / (1 << 30) }

func startups(tb testing.TB) []startup {
	tb.Helper()
	var all []startup
	readTestdata(tb, "logs.json", &all)
	return slices.DeleteFunc(all, func(s startup) bool { return !s.measured() })
}

// taken is what vLLM measured beside the cache, by the rules of a release: its log is of one in which CUDA graphs came on
// top of the budget. The terms are those of the first stage; what the last one took, which has the sampler, is what was
// left of its budget for the tokens of cache that all of them have.
func (s startup) taken(r release, kvBytesPerToken uint64) float64 {
	sum := s.WeightsGiB + s.ActivationsGiB + s.NonTorchGiB
	if s.PipelineParallel > 1 {
		sum = s.GPUMemoryUtilization*s.CUDATotalGiB - gib(s.KVCacheTokens*kvBytesPerToken)
	}
	if r.graphsInBudget() {
		sum += s.CUDAGraphsGiB
	}
	return sum
}

// TestPublicLogs holds every term against what vLLM logged.
func TestPublicLogs(t *testing.T) {
	rows := startups(t)
	if len(rows) < 48 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, s := range rows {
		for _, version := range []string{"0.19", DefaultVLLMVersion} {
			n := need(t, shape(t, s.Shape), s.serving(version))
			weights := gib(n.WeightsBytes + n.ReplicatedBytes)
			if off := weights/s.WeightsGiB - 1; math.Abs(off) > 0.006 {
				t.Errorf("%s on %d GPUs: weights of %.2f GiB; vLLM logged %.2f", s.Model, s.TensorParallel, weights, s.WeightsGiB)
			}
			// A hundredth is what the log leaves open of each term.
			beside := s.taken(n.release, n.KVBytesPerToken) - weights
			if least, most := gib(n.OverheadMinBytes), gib(n.OverheadMaxBytes); beside < least-0.02 || beside > most+0.02 {
				t.Errorf("%s on %d GPUs, by the rules of %s: vLLM took %.2f GiB beside weights and cache; we state %.2f to %.2f",
					s.Model, s.TensorParallel, version, beside, least, most)
			}
			if version != "0.19" {
				continue
			}
			if s.PipelineParallel > 1 {
				continue // of which stage the cache was logged is not of which the tokens are
			}
			tokens := n.CacheTokens(uint64(math.Ceil((weights+s.KVCacheGiB)/n.GPUMemoryUtilization*(1<<30))), 0)
			if off := float64(tokens)/float64(s.KVCacheTokens) - 1; math.Abs(off) > 0.002 {
				t.Errorf("%s on %d GPUs: %d tokens in %.2f GiB; vLLM logged %d", s.Model, s.TensorParallel, tokens, s.KVCacheGiB, s.KVCacheTokens)
			}
		}
	}
}

// answers counts what was said of cases of which it is known whether vLLM starts.
type answers struct{ cases, wrongYes, wrongNo, tight int }

func (a answers) String() string {
	return fmt.Sprintf("%d cases, %d wrong yes, %d wrong no, %.1f%% tight", a.cases, a.wrongYes, a.wrongNo, 100*float64(a.tight)/float64(max(1, a.cases)))
}

// judged holds what judge said, for two tests ask it.
var judged sync.Map

// judgeOnce is judge, once for each row and version.
func judgeOnce(tb testing.TB, s startup, version string) answers {
	tb.Helper()
	key := fmt.Sprintf("%+v %s", s, version)
	if v, ok := judged.Load(key); ok {
		if a, ok := v.(answers); ok {
			return a
		}
	}
	a := judge(tb, s, version)
	judged.Store(key, a)
	return a
}

// judge asks of one startup whether it would have gone well with other shares of the memory and other lengths.
func judge(tb testing.TB, s startup, version string) answers {
	tb.Helper()
	total := s.totalBytes()
	var a answers
	eachCase(tb, s, version, func(n Need, _ int, starts bool) {
		verdict, _ := n.Verdict(total, total)
		a.add(judgement(verdict, starts))
	})
	return a
}

// judgement counts one case.
func judgement(verdict Verdict, starts bool) answers {
	a := answers{cases: 1}
	switch {
	case verdict == Tight:
		a.tight = 1
	case verdict == Fits && !starts:
		a.wrongYes = 1
	case verdict == No && starts:
		a.wrongNo = 1
	}
	return a
}

// totalBytes is what CUDA reported of each GPU.
func (s startup) totalBytes() uint64 { return uint64(s.CUDATotalGiB * (1 << 30)) }

// caseLengths are the lengths of requests that a case has; 0 is the model's own.
var caseLengths = []int64{2048, 8192, 32768, 0}

// eachCase visits one startup with other shares of the memory and other lengths, of caseLengths[length], and reports
// whether vLLM starts. The log has what vLLM took, so that is known but for the hundredths that it leaves open.
func eachCase(tb testing.TB, s startup, version string, visit func(n Need, length int, starts bool)) {
	tb.Helper()
	m := shape(tb, s.Shape)
	total := s.totalBytes()
	for i, length := range caseLengths {
		for percent := 10; percent <= 98; percent++ {
			serving := s.serving(version)
			serving.MaxModelLen, serving.GPUMemoryUtilization = length, float64(percent)/100
			n := need(tb, m, serving).On(DeviceMemory{Name: "NVIDIA H100 80GB HBM3", TotalBytes: total})
			budget := gib(n.BudgetBytes(total))
			left := budget - s.taken(n.release, n.KVBytesPerToken) - gib(n.KVBytes+n.KVNullBlockBytes)
			if math.Abs(left) < 0.03 {
				continue
			}
			visit(n, i, left >= 0 && (n.release.graphsInBudget() || s.CUDATotalGiB-budget >= s.CUDAGraphsGiB))
		}
	}
}

func (a *answers) add(o answers) {
	a.cases, a.wrongYes, a.wrongNo, a.tight = a.cases+o.cases, a.wrongYes+o.wrongYes, a.wrongNo+o.wrongNo, a.tight+o.tight
}

// keptBack are the models by which no figure of overhead.go was chosen.
func keptBack(shape string) bool {
	for _, family := range []string{"granite", "gemma-7b", "phi", "mistral", "qwen15", "qwen3", "llama33", "gemma3-27b", "qwen25-72b", "llama4"} {
		if strings.HasPrefix(shape, family) {
			return true
		}
	}
	return false
}

// TestFirstStageOfPublicLogs: the terms that a pipeline logs are those of its first stage, without a sampler.
func TestFirstStageOfPublicLogs(t *testing.T) {
	rows := 0
	for _, s := range startups(t) {
		if s.PipelineParallel < 2 {
			continue
		}
		rows++
		n := need(t, shape(t, s.Shape), s.serving("0.19"))
		first := n.model.stages(n.PipelineParallel)[0]
		n.addWeights(first)
		n.addOverhead(first)
		weights := gib(n.WeightsBytes + n.ReplicatedBytes)
		if math.Abs(weights/s.WeightsGiB-1) > 0.006 {
			t.Errorf("%d stages: the first has weights of %.2f GiB; vLLM logged %.2f", s.PipelineParallel, weights, s.WeightsGiB)
		}
		beside := s.ActivationsGiB + s.NonTorchGiB + s.WeightsGiB - weights
		if least, most := gib(n.OverheadMinBytes), gib(n.OverheadMaxBytes); beside < least-0.02 || beside > most+0.02 {
			t.Errorf("%d stages: the first took %.2f GiB beside weights and cache; we state %.2f to %.2f", s.PipelineParallel, beside, least, most)
		}
	}
	if rows < 2 {
		t.Errorf("%d rows have a pipeline", rows)
	}
}

// TestAnswersOfPublicLogs: no yes where vLLM fails, no no where it starts, and few that are neither.
func TestAnswersOfPublicLogs(t *testing.T) {
	for _, version := range []string{"0.19", DefaultVLLMVersion} {
		var all, kept answers
		for _, s := range startups(t) {
			a := judgeOnce(t, s, version)
			all.add(a)
			if keptBack(s.Shape) {
				kept.add(a)
			}
			if a.wrongYes > 0 || a.wrongNo > 0 {
				t.Errorf("%s on %d GPUs, by the rules of %s: %v", s.Model, s.TensorParallel, version, a)
			}
		}
		t.Logf("by the rules of %s: all rows %v; kept back %v", version, all, kept)
		for _, a := range []answers{all, kept} {
			if a.cases == 0 || a.tight*10 >= a.cases {
				t.Errorf("by the rules of %s: %v", version, a)
			}
		}
	}
}

// TestStartsOfPublicLogs: the answer for each start itself, as it was made.
func TestStartsOfPublicLogs(t *testing.T) {
	var all []startup
	readTestdata(t, "logs.json", &all)
	asked := 0
	for _, s := range all {
		if s.Shape == "" || s.TensorParallel == 0 || strings.Contains(s.Error, "Free memory on device") ||
			strings.Contains(s.Error, "DP adjusted") {
			continue // not of one answer, or of what had nothing to do with the model
		}
		asked++
		m := shape(t, s.Shape)
		serving := s.serving("0.19")
		serving.GPUMemoryUtilization = s.GPUMemoryUtilization
		n, err := m.Need(serving)
		if err != nil {
			if s.Started {
				t.Errorf("%s on %d GPUs is refused: %v", s.Model, s.TensorParallel, err)
			}
			continue
		}
		total := uint64(s.CUDATotalGiB * (1 << 30))
		switch verdict, why := n.Verdict(total, total); {
		case verdict == Fits && !s.Started, verdict == No && s.Started:
			t.Errorf("%s on %d GPUs: %s (%s); vLLM started: %v %s", s.Model, s.TensorParallel, verdict, why, s.Started, s.Error)
		}
	}
	if asked < 40 {
		t.Errorf("%d starts", asked)
	}
}

// What CUDA says of the memory of an H100 and of an RTX 3090: 79.19 and 23.58 GiB.
const h100CUDA, rtx3090CUDA = 7919 << 30 / 100, 2358 << 30 / 100

// TestSingleReports: what single threads tell of. None of these is of a release whose rules are known, so the oldest are
// taken: weights are off by as little as in the logs, vLLM takes no less than the least beside them, and no start that
// failed is called certain.
func TestSingleReports(t *testing.T) {
	var reports []struct {
		startup
		Source        string `json:"source"`
		GPU           string `json:"gpu"`
		Note          string `json:"note"`
		KVBlockTokens uint64 `json:"kvBlockTokens"`
		Blocks        uint64 `json:"blocks"` // that there were for states
	}
	readTestdata(t, "singles.json", &reports)
	if len(reports) < 8 {
		t.Fatalf("%d reports", len(reports))
	}
	for _, r := range reports {
		m := shape(t, r.Shape)
		s := Serving{TensorParallel: r.TensorParallel, MaxModelLen: r.MaxModelLen, GPUMemoryUtilization: r.GPUMemoryUtilization, Quantization: r.Quantization, VLLMVersion: "0.19"}
		if r.Blocks > 0 {
			s.VLLMVersion = "" // the oldest do not ask for them
		}
		n, err := m.Need(s)
		if strings.Contains(r.Error, "not divisible") {
			if err == nil {
				t.Errorf("%s: %s is not refused on %d GPUs", r.Source, r.Model, r.TensorParallel)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", r.Source, err)
			continue
		}
		total := uint64(h100CUDA)
		if strings.Contains(r.GPU, "3090") {
			total = rtx3090CUDA
		}
		n = n.On(DeviceMemory{Name: r.GPU, TotalBytes: total})
		if r.WeightsGiB > 0 {
			weights := gib(n.WeightsBytes + n.ReplicatedBytes)
			if off := weights/r.WeightsGiB - 1; math.Abs(off) > 0.006 {
				t.Errorf("%s: weights of %.2f GiB; vLLM logged %.2f", r.Source, weights, r.WeightsGiB)
			}
			if r.KVCacheGiB != 0 {
				if beside := gib(n.BudgetBytes(total)) - r.WeightsGiB - r.KVCacheGiB; beside < gib(n.OverheadMinBytes) {
					t.Errorf("%s: vLLM took %.2f GiB beside weights and cache; we state %.2f at the least", r.Source, beside, gib(n.OverheadMinBytes))
				}
			}
		}
		if r.GPU != "" && !r.Started && r.Note != "engine V0" { // which took whole requests into a batch
			if verdict, _ := n.Verdict(total, total); verdict == Fits {
				t.Errorf("%s: %s fits on %s for certain, and did not start", r.Source, r.Model, r.GPU)
			}
		}
		if r.KVCacheTokens > 0 {
			tokens := uint64(r.KVCacheGiB*(1<<30)) / n.KVBytesPerToken
			if off := float64(tokens)/float64(r.KVCacheTokens) - 1; math.Abs(off) > 0.015 { // the least of four GPUs
				t.Errorf("%s: %d tokens in %.2f GiB; vLLM logged %d", r.Source, tokens, r.KVCacheGiB, r.KVCacheTokens)
			}
		}
		if r.Blocks > 0 {
			n := n.On(DeviceMemory{Name: r.GPU, TotalBytes: total})
			block := n.sequenceBlocks / n.MaxNumSeqs
			least, most := less(n.cacheBytes(total), n.OverheadMaxBytes)/block, less(n.cacheBytes(total), n.OverheadMinBytes)/block
			if verdict, why := n.Verdict(total, total); r.Blocks < least || r.Blocks > most || verdict != No || !strings.Contains(why, "--max-num-seqs") {
				t.Errorf("%s: vLLM had %d blocks; we state %d to %d, and %s: %s", r.Source, r.Blocks, least, most, verdict, why)
			}
		}
		// The thread does not name the cache's type: in half as many bytes a block is twice as long.
		if r.KVBlockTokens > 0 && n.KVBlockTokens != r.KVBlockTokens && 2*n.KVBlockTokens != r.KVBlockTokens {
			t.Errorf("%s: blocks of %d tokens; vLLM logged %d", r.Source, n.KVBlockTokens, r.KVBlockTokens)
		}
	}
}
