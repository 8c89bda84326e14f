package sizing

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const fitDoc = "../../docs/fit.md"

// TestFitReport holds the tables of docs/fit.md; make fit-report prints them, and -update writes them.
func TestFitReport(t *testing.T) { holdFitDoc(t, fitReport(t)) }

// holdFitDoc holds what docs/fit.md has between the comments that name this test.
func holdFitDoc(t *testing.T, report string) {
	t.Helper()
	t.Log("\n" + report)
	data, err := os.ReadFile(fitDoc)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+t.Name()+" -->\n", "<!-- end of "+t.Name()+" -->\n"
	before, rest, begun := strings.Cut(string(data), begin)
	have, after, ended := strings.Cut(rest, end)
	if !begun || !ended {
		t.Fatalf("%s has no %q and %q", fitDoc, begin, end)
	}
	if *update {
		if err := os.WriteFile(fitDoc, []byte(before+begin+report+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != report {
		t.Errorf("%s has other tables; run go test ./gpu/sizing -run %s -update", fitDoc, t.Name())
	}
}

func fitReport(tb testing.TB) string {
	tb.Helper()
	var b strings.Builder
	versions := []string{"0.19", DefaultVLLMVersion}
	fmt.Fprintf(&b, "| rules of vLLM | rows | cases | yes, and vLLM fails | no, and vLLM starts | tight |\n|---|---|---|---|---|---|\n")
	for _, version := range versions {
		for _, kept := range []bool{false, true} {
			var sum answers
			rows, which := 0, "all"
			for _, s := range startups(tb) {
				if kept && !keptBack(s.Shape) {
					continue
				}
				rows++
				sum.add(judgeOnce(tb, s, version))
			}
			if kept {
				which = "kept back"
			}
			fmt.Fprintf(&b, "| %s | %d, %s | %d | %d | %d | %.1f%% |\n", version, rows, which, sum.cases, sum.wrongYes, sum.wrongNo, 100*float64(sum.tight)/float64(sum.cases))
		}
	}
	fmt.Fprintf(&b, "\n| model | GPUs | weights, logged | counted | tokens of cache, error | beside, logged | bounds by 0.19 | with graphs, logged | bounds by %s |\n|---|---|---|---|---|---|---|---|---|\n", DefaultVLLMVersion)
	seen := map[string]bool{}
	for _, s := range startups(tb) {
		old, now := need(tb, shape(tb, s.Shape), s.serving(versions[0])), need(tb, shape(tb, s.Shape), s.serving(versions[1]))
		weights := gib(old.WeightsBytes + old.ReplicatedBytes)
		tokens := fmt.Sprintf("%+.1f%%", 100*(float64(old.CacheTokens(uint64((weights+s.KVCacheGiB)/old.GPUMemoryUtilization*(1<<30)), 0))/float64(s.KVCacheTokens)-1))
		if s.PipelineParallel > 1 {
			tokens = "-" // the size is that of the first stage, the tokens are those of the last
		}
		beside, withGraphs := s.taken(old.release, old.KVBytesPerToken)-s.WeightsGiB, s.taken(now.release, now.KVBytesPerToken)-s.WeightsGiB
		line := fmt.Sprintf("| %s%s | %d | %.2f | %.2f | %s | %.2f | %.2f to %.2f | %.2f | %.2f to %.2f |\n", s.Model, s.arguments(), old.GPUsPerReplica(), s.WeightsGiB, weights,
			tokens, beside, gib(old.OverheadMinBytes), gib(old.OverheadMaxBytes), withGraphs, gib(now.OverheadMinBytes), gib(now.OverheadMaxBytes))
		if !seen[line] { // lengths and types of the cache change nothing here
			seen[line] = true
			b.WriteString(line)
		}
	}
	return b.String()
}
