//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/stoker-project/stoker/bench/measure"
)

// table writes Markdown.
type table struct{ strings.Builder }

func (t *table) line(format string, args ...any) { fmt.Fprintf(&t.Builder, format+"\n", args...) }

// head writes a table's head; numbers stand right.
func (t *table) head(columns ...string) {
	t.line("| %s |", strings.Join(columns, " | "))
	t.line("|%s", strings.Repeat("---|", 2)+strings.Repeat("--:|", len(columns)-2))
}

// costs is a table of what each contender cost, against a reference.
func (t *table) costs(results []result, reference string) {
	t.head("", "verifies", "wall s", "x "+reference, "CPU s", "x "+reference, "peak MiB", "of it anonymous", "server CPU s")
	to := find(results, reference)
	for i := range results {
		r := &results[i]
		if len(r.values(wall)) == 0 {
			t.line("| %s | %s | failed | | | | | | |", r.name, r.verifies)
			continue
		}
		t.line("| %s | %s | %s | %s | %s | %s | %.0f | %.0f | %.2f |", r.name, r.verifies,
			seconds(r, wall), ratio(r.ratios(to, wall)), seconds(r, cpu), ratio(r.ratios(to, cpu)),
			highest(r.values(peakRSS)), highest(r.values(peakAnon)), measure.SpreadOf(r.values(serverCPU)).Median)
	}
	t.line("")
}

func seconds(r *result, of func(*cost) float64) string {
	return fmt.Sprintf("%.2f", measure.SpreadOf(r.values(of)).Median)
}

// ratio is a median with its quartiles.
func ratio(s measure.Spread) string {
	if s.N == 0 {
		return "?"
	}
	return fmt.Sprintf("%.2f (%.2f-%.2f)", s.Median, s.Low, s.High)
}

func highest(values []float64) float64 {
	var most float64
	for _, v := range values {
		most = max(most, v)
	}
	return most
}

// target is a promise: a number that may not be above, or below, a limit.
type target struct {
	says    string
	measure measure.Spread
	limit   float64
	atLeast bool
	unit    string
}

func (t *table) targets(targets ...target) {
	t.head("target", "", "measured", "")
	for _, g := range targets {
		sign, met := "at most", g.measure.Median <= g.limit
		if g.atLeast {
			sign, met = "at least", g.measure.Median >= g.limit
		}
		verdict := "not met"
		switch {
		case g.measure.N == 0:
			verdict = "not measured"
		case met:
			verdict = "met"
		}
		t.line("| %s | %s %.4g%s | %s | %s |", g.says, sign, g.limit, g.unit, ratio(g.measure), verdict)
	}
	t.line("")
}

// failures says what went wrong, so that no empty cell hides it.
func (t *table) failures(b *bench, results []result) {
	for _, r := range results {
		if r.failed > 0 {
			t.line("%s failed %d times.", r.name, r.failed)
		}
	}
	if len(b.missing) > 0 {
		t.line("Not here, so not compared: %s.", strings.Join(b.missing, ", "))
	}
}

// versions lists what took part.
func versions(results []result) string {
	var list []string
	seen := map[string]bool{}
	for _, r := range results {
		if r.version != "" && !seen[r.version] {
			list = append(list, r.version)
			seen[r.version] = true
		}
	}
	return strings.Join(list, ", ")
}

// publish puts a part's text between its markers in the README, if this is a
// full run.
func (b *bench) publish(part, text string) error {
	if b.readme == "" {
		return nil
	}
	if !b.full() {
		b.say("%s stays as it is: this run is smaller than a full one (%d rounds of 2 GiB)", b.readme, fullRounds)
		return nil
	}
	page, err := os.ReadFile(b.readme)
	if err != nil {
		return fmt.Errorf("publish the table: %w", err)
	}
	begin, end := []byte("<!-- bench:"+part+" -->\n"), []byte("<!-- bench:"+part+" end -->")
	head, rest, ok := bytes.Cut(page, begin)
	_, tail, ended := bytes.Cut(rest, end)
	if !ok || !ended {
		return fmt.Errorf("publish the table: no markers %s in %s", bytes.TrimSpace(begin), b.readme)
	}
	page = bytes.Join([][]byte{head, begin, []byte(text), end, tail}, nil)
	return os.WriteFile(b.readme, page, 0o644)
}
