package serving

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/test/sized"
)

// board is what the figures of stoker fit are for: eight A100 with 40 GB.
const board = "simulated:dgxa100"

// fitted is what `stoker fit -o json` says, as far as the page does.
type fitted struct {
	WeightsBytes     uint64 `json:"weightsBytes"`
	KVBytes          uint64 `json:"kvBytes"`
	RuleOfThumbBytes uint64 `json:"ruleOfThumbBytes"`
	GPUs             []struct {
		BudgetBytes    uint64 `json:"budgetBytes"`
		CacheTokensMin uint64 `json:"cacheTokensMin"`
		CacheTokensMax uint64 `json:"cacheTokensMax"`
	} `json:"gpus"`
}

// fitter is the real executable, and a model to ask it about.
type fitter struct {
	binary, model string
}

func newFitter(t *testing.T) fitter {
	t.Helper()
	f := fitter{binary: buildStoker(t), model: t.TempDir()}
	if err := sized.Llama8B(f.model); err != nil {
		t.Fatal(err)
	}
	return f
}

// fit asks for one GPU of the board.
func (f fitter) fit(t *testing.T, args ...string) fitted {
	t.Helper()
	args = append([]string{"fit", f.model, "--gpus=" + board, "--tensor-parallel=1", "-o", "json"}, args...)
	out, err := exec.CommandContext(t.Context(), f.binary, args...).Output()
	if err != nil {
		t.Fatalf("stoker %q: %v", args, err)
	}
	var got fitted
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if got.WeightsBytes == 0 || got.KVBytes == 0 || got.RuleOfThumbBytes == 0 || len(got.GPUs) == 0 || got.GPUs[0].CacheTokensMax == 0 {
		t.Fatalf("stoker %q says %s", args, out)
	}
	return got
}

// What the page says by stoker fit is what stoker fit says.
func TestFitFigures(t *testing.T) {
	f := newFitter(t)
	var text strings.Builder
	text.WriteString("| `gpu-memory-utilization` | budget | tokens of cache |\n|---|---|---|\n")
	for _, utilization := range []string{"0.85", "0.92"} {
		g := f.fit(t, "--gpu-memory-utilization="+utilization).GPUs[0]
		fmt.Fprintf(&text, "| %s | %s | %s to %s |\n", utilization, gibibytes(g.BudgetBytes), thousands(g.CacheTokensMin), thousands(g.CacheTokensMax))
	}
	text.WriteString("\n| one request of | weights | its cache | together | parameters x 2 bytes + 25% |\n|---|---|---|---|---|\n")
	for _, length := range []uint64{8192, 32768, 131072} {
		n := f.fit(t, fmt.Sprintf("--max-model-len=%d", length))
		fmt.Fprintf(&text, "| %s tokens | %s | %s | %s | %s |\n", thousands(length),
			gibibytes(n.WeightsBytes), gibibytes(n.KVBytes), gibibytes(n.WeightsBytes+n.KVBytes), gibibytes(n.RuleOfThumbBytes))
	}
	writePart(t, "TestFitFigures", text.String())
}

// The refusal that the chart's README shows is the one that the init container
// prints.
func TestRefusalIsTheReadmes(t *testing.T) {
	f := newFitter(t)
	args := []string{"fit", f.model, "--gpus=" + board, "--tensor-parallel=1", "--gpu-memory-utilization=0.7", "--check"}
	out, err := exec.CommandContext(t.Context(), f.binary, args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Fatalf("stoker %q: %v: %s", args, err, out)
	}
	said := ""
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "stoker: ") {
			said = strings.TrimSpace(line[strings.Index(line, "stoker: "):])
		}
	}
	said = strings.ReplaceAll(said, f.model, "/stoker/model")
	if said == "" || !strings.Contains(read(t, repository(t), "charts", "vllm", "README.md"), said) {
		t.Errorf("charts/vllm/README.md does not have what stoker fit says:\n%s", said)
	}
}

func gibibytes(n uint64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

// thousands writes a number with a comma before every three digits.
func thousands(n uint64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return thousands(n/1000) + fmt.Sprintf(",%03d", n%1000)
}

// writePart compares a part of the page, between marks that name the test, with
// what the test made; -update writes it.
func writePart(t *testing.T, test, text string) {
	t.Helper()
	begin, end := "<!-- "+test+" -->\n", "<!-- end of "+test+" -->\n"
	path := filepath.Join(repository(t), "docs", "autoscaling.md")
	page := read(t, path)
	before, rest, found := strings.Cut(page, begin)
	was, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("docs/autoscaling.md has no part between %q and %q", begin, end)
	}
	if was == text {
		return
	}
	if !*update {
		t.Fatalf("docs/autoscaling.md has\n%s\nwant\n%s\nrun `go -C test test ./serving -run %s -update`, and read the diff", was, text, test)
	}
	if err := os.WriteFile(path, []byte(before+begin+text+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
