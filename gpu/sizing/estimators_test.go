package sizing

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const estimatesFile = "estimators.json"

// estimate is what another estimator answered about one start, a row of testdata/estimators.json. Sizes are in GiB on each
// GPU; nil is what it does not compute.
type estimate struct {
	Package        string   `json:"package"`
	Version        string   `json:"version"`
	Command        string   `json:"command"`
	Shape          string   `json:"shape"`
	TensorParallel int      `json:"tensorParallel"`
	MaxModelLen    int64    `json:"maxModelLen"`
	KVCacheDtype   string   `json:"kvCacheDtype"`
	WeightsGiB     *float64 `json:"weightsGiB"`
	KVGiB          *float64 `json:"kvGiB"`  // of one request of MaxModelLen
	Tokens         *float64 `json:"tokens"` // in all of the cache, with the log's share of the memory
	// From is the least percentage of the memory with which a request of each of caseLengths fits, 99 for none.
	From  []*float64 `json:"from"`
	Error string     `json:"error"`
}

// TestEstimators holds the recorded answers against the packages that the virtual environment has.
func TestEstimators(t *testing.T) {
	t.Parallel()
	python := os.Getenv("STOKER_TEST_PYTHON")
	if python == "" {
		t.Skip("no virtual environment with other estimators: make test makes one (STOKER_TEST_PYTHON)")
	}
	cmd := exec.CommandContext(t.Context(), python, "estimators.py")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir(), "PYTHONDONTWRITEBYTECODE=1"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("estimators.py: %v\n%s", err, stderr.String())
	}
	path := filepath.Join("testdata", estimatesFile)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil { //nolint:gosec // a source file
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, got) {
		t.Errorf("%s holds other answers than the estimators give; run make fit-estimators and look at the change", path)
	}
}

// opinion is how one estimator does on all starts.
type opinion struct {
	name        string
	weights, kv []float64 // how far each is off, 0 for right
	tokens      []float64
	all, own    answers // of all cases, and of those with the model's own length; tight is no answer
}

// oneCase is a case of eachCase: what is asked, what vLLM does, and what this package says.
type oneCase struct {
	length       int // of caseLengths
	share        float64
	budget       uint64 // of one GPU
	starts       bool
	stokerAnswer Verdict
}

// TestFitEstimators holds the table of docs/fit.md that compares estimators.
func TestFitEstimators(t *testing.T) {
	var recorded []estimate
	readTestdata(t, estimatesFile, &recorded)
	stoker, thumb := &opinion{name: "`stoker fit --vllm-version 0.19`"}, &opinion{name: "parameters x 2 bytes + 25%"}
	opinions := []*opinion{stoker}
	byStart := map[string]estimate{}
	for _, e := range recorded {
		name := fmt.Sprintf("`%s` (%s %s)", e.Command, e.Package, e.Version)
		if opinions[len(opinions)-1].name != name {
			opinions = append(opinions, &opinion{name: name})
		}
		byStart[e.key(name)] = e
	}
	others := opinions[1:]
	opinions = append(opinions, thumb)
	for _, s := range startups(t) {
		if s.serving("0.19").TakesOtherwise() {
			continue // the others were not told of its arguments
		}
		total := s.totalBytes()
		var cases []oneCase
		eachCase(t, s, "0.19", func(n Need, length int, starts bool) {
			verdict, _ := n.Verdict(total, total)
			cases = append(cases, oneCase{length, n.GPUMemoryUtilization, n.BudgetBytes(total), starts, verdict})
		})
		for _, o := range others {
			key := estimate{Shape: s.Shape, TensorParallel: s.TensorParallel, MaxModelLen: s.MaxModelLen, KVCacheDtype: s.KVCacheDtype}.key(o.name)
			e, ok := byStart[key]
			if !ok {
				t.Fatalf("%s has nothing of %s; run make fit-estimators", estimatesFile, key)
			}
			o.holdEstimate(s, e, cases)
		}
		stoker.holdStoker(t, s, cases)
		thumb.holdThumb(t, s, cases)
	}

	var b strings.Builder
	b.WriteString("| estimator | weights within 1%, farthest off | cache of a request within 1% | tokens in the cache within 5% | cases | yes, and vLLM fails | no, and vLLM starts | neither | the same at the model's own length |\n" +
		"|---|---|---|---|---|---|---|---|---|\n")
	for _, o := range opinions {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", o.name, offs(o.weights, 1), offs(o.kv, 1), offs(o.tokens, 5), o.all.row(), strings.Join(o.own.counts(), ", "))
	}
	holdFitDoc(t, b.String())
}

func (e estimate) key(name string) string {
	return fmt.Sprintf("%s of %s on %d GPUs, %d tokens, %s", name, e.Shape, e.TensorParallel, e.MaxModelLen, e.KVCacheDtype)
}

// holdEstimate adds what another estimator answers about one start.
func (o *opinion) holdEstimate(s startup, e estimate, cases []oneCase) {
	off := func(list *[]float64, is *float64, logged float64) {
		if is != nil {
			*list = append(*list, *is/logged-1)
		}
	}
	off(&o.weights, e.WeightsGiB, s.WeightsGiB)
	off(&o.kv, e.KVGiB, s.requestGiB())
	off(&o.tokens, e.Tokens, float64(s.KVCacheTokens))
	for _, c := range cases {
		if len(e.From) != len(caseLengths) || e.From[c.length] == nil {
			o.count(c, Tight)
			continue
		}
		o.count(c, verdictOf(math.Round(100*c.share) >= *e.From[c.length]))
	}
}

// holdStoker adds what this package answers. Its tokens are those between its bounds that are nearest to the log's.
func (o *opinion) holdStoker(tb testing.TB, s startup, cases []oneCase) {
	tb.Helper()
	serving := s.serving("0.19")
	serving.GPUMemoryUtilization = s.GPUMemoryUtilization
	total := s.totalBytes()
	n := need(tb, shape(tb, s.Shape), serving).On(DeviceMemory{Name: "NVIDIA H100 80GB HBM3", TotalBytes: total})
	o.weights = append(o.weights, gib(n.WeightsBytes+n.ReplicatedBytes)/s.WeightsGiB-1)
	o.kv = append(o.kv, gib(n.KVBytes)/s.requestGiB()-1)
	logged := float64(s.KVCacheTokens)
	nearest := max(float64(n.CacheTokens(total, n.OverheadMaxBytes)), min(logged, float64(n.CacheTokens(total, n.OverheadMinBytes))))
	o.tokens = append(o.tokens, nearest/logged-1)
	for _, c := range cases {
		o.count(c, c.stokerAnswer)
	}
}

// holdThumb adds what parameters x 2 bytes x 1.25 answers, whatever the length.
func (o *opinion) holdThumb(tb testing.TB, s startup, cases []oneCase) {
	tb.Helper()
	m, gpus := shape(tb, s.Shape), uint64(s.TensorParallel)
	o.weights = append(o.weights, gib(m.Weights.Parameters*2/gpus)/s.WeightsGiB-1)
	for _, c := range cases {
		o.count(c, verdictOf(m.RuleOfThumbBytes() <= c.budget*gpus))
	}
}

// requestGiB is the cache of one request of the log's length on each GPU, as the log has it: vLLM prints how many such
// requests the cache holds, in tokens.
func (s startup) requestGiB() float64 {
	return s.KVCacheGiB * float64(s.MaxModelLen) / float64(s.KVCacheTokens)
}

func verdictOf(fits bool) Verdict {
	if fits {
		return Fits
	}
	return No
}

func (o *opinion) count(c oneCase, verdict Verdict) {
	a := judgement(verdict, c.starts)
	o.all.add(a)
	if caseLengths[c.length] == 0 {
		o.own.add(a)
	}
}

// offs counts those that are off by at most so many percent, and names the farthest.
func offs(list []float64, percent float64) string {
	if len(list) == 0 {
		return "-"
	}
	right := 0
	for _, off := range list {
		if 100*math.Abs(off) <= percent {
			right++
		}
	}
	farthest := slices.MaxFunc(list, func(a, b float64) int { return cmp.Compare(math.Abs(a), math.Abs(b)) })
	return fmt.Sprintf("%d of %d, %+.1f%%", right, len(list), 100*farthest)
}

func (a answers) counts() []string {
	return []string{fmt.Sprint(a.wrongYes), fmt.Sprint(a.wrongNo), fmt.Sprintf("%.1f%%", 100*float64(a.tight)/float64(a.cases))}
}

func (a answers) row() string {
	return fmt.Sprintf("%d | %s", a.cases, strings.Join(a.counts(), " | "))
}
