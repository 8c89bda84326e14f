package serving

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/test/charts"
)

// said is what docs/autoscaling.md says of one test, with the test's figures.
type said struct{ test, text string }

// pageSays are all figures of the page but those that TestFitFigures writes.
func pageSays(chart chartValues) []said {
	s, p := fmt.Sprintf, per
	return []said{
		{"TestCPU", s("The HPA controller looks every %s.", p(hpaSync))},
		{"TestCPU", s("as the batch of %d fills", maxRunning)},
		{"TestCPU", s("A real HPA with a target of %d%% read that", cpuTarget)},
		{"TestCPU", s("HPA, %s cores requested (the chart's) | HPA, 1 core requested | KEDA, %d may wait for each replica", chartCPU, queueTarget)},
		{"TestCPU", s("%d requests, none waits | CPU at %d%%, 1 replica | %d replicas | 1 replica", most, cpuOfOne, most)},
		{"TestCPU", s("the batch full, %d wait | CPU at %d%%, 1 replica | %d replicas | %d replicas", waiting, cpuOfFull, most, most)},
		{"TestCPU", s("the batch full, %d wait | CPU at %d%%, 1 replica after %s | %d replicas | %d replicas", many, cpuOfFull, p(cpuHeld), most, most)},
		{"TestCPU", s("a queue of %d from one of %d", waiting, many)},
		{"TestScaling", s("%d requests wait, %d may wait for each replica: from 1 to %d replicas in at most %s", waiting, queueTarget, most, p(queueGrew))},
		{"TestAdapter", s("without KEDA: in at most %s,", p(adapterGrew))},
		{"TestScaling", s("with %d waiting, 1 replica stayed for %s; not paused any more, there were %d in at most %s", waiting, p(pausedHeld), most, p(queueGrew))},
		{"TestRecipe", s("With %d waiting there were %d replicas for a moment, each with a mean of %d; the HPA took %d for the whole, and went to 1, with %d still waiting",
			waiting, most, waiting/most, waiting/most, waiting)},
		{"TestCountOfReplicasIsOne", s("divides by 1: a Deployment")},
		{"TestCountOfReplicasIsOne", s("count 1, sum %d", most)},
		{"TestRecipe", s("a target of %.1f and every cache %d%% full, there were %d replicas and no more: %.1f / %d looks like %d%%",
			shareTarget, cacheFull, shareReplicas, cacheFull/100.0, shareReplicas, cacheFull/shareReplicas)},
		{"TestScaling", s("went from 1 to %d, the most that was allowed, in at most %s", most, p(cacheGrew))},
		{"TestRecipe", s("With `cooldownPeriod: %d` and at least 1 replica, %d replicas stayed for %s after the load had ended", cooldown, most, p(hpaDefaultWindow))},
		{"TestScaling", s("with %d s, they fell %d s after the HPA's last look", int(window.Seconds()), int(window.Seconds()))},
		{"TestRecipe", s("With %d requests waiting and the metric renamed, replicas fell from %d to 1 as soon as the window of %s was over", waiting, most, p(vanishedWindow))},
		{"TestScaling", s("away for %s, %s the window, with %d replicas: they stayed %d", p(away), map[time.Duration]string{2: "twice"}[away/window], fewer, fewer)},
		{"TestScaling", s("fired after the %s that it waits", p(alertAfter))},
		{"TestOneMinuteWindowMissesPreemptions", s("Scraped every %s, there are two", p(scrapeRules))},
		{"TestOneMinuteWindowMissesPreemptions", s("%s of %.1f preemptions a second with one scrape in %d missed: that alert never fired, the chart's, over %s, fired",
			p(preempted), preemptions, missedEvery, p(preemptWindow))},
		{"TestPage", s("The chart's default is %d:", chart.Autoscaling.ScaleDown.StabilizationSeconds)},
		{"TestPage", s("| the default, %.2f, checked", chart.VLLM.GPUMemoryUtilization)},
	}
}

// chartValues are the chart's defaults that the page, and the tests, speak of.
type chartValues struct {
	Autoscaling struct {
		QueueTarget, MaxReplicas, MinReplicas int
		ScaleDown                             struct{ StabilizationSeconds int }
	}
	Resources struct{ Requests struct{ CPU string } }
	VLLM      struct{ GPUMemoryUtilization float64 }
}

func (c chartValues) check(t *testing.T) {
	t.Helper()
	if a := c.Autoscaling; a.QueueTarget != queueTarget || a.MaxReplicas != most || a.MinReplicas != 1 || c.Resources.Requests.CPU != chartCPU {
		t.Errorf("the chart's defaults are %+v, which the tests are not run with", c)
	}
}

// quoted is what the page says with digits in it that nothing here measures:
// what articles advise, and what other projects changed when.
var quoted = regexp.MustCompile(strings.Join([]string{
	`e2e`, `0\.85 of the GPU's memory`, "`--gpu-memory-utilization 0\\.85`", "`cooldownPeriod: 300`", `no effect above 0 replicas`, `no: twice, or by 1`,
	`no: it reads as 0`, "`rate\\(preemptions\\[1m\\]\\)`", "5 minutes, and `for:`", `\| scale to 0 \|`, `at least 1 \|`, `params x 2 bytes \+ 25%`,
	`\bv0\.\d+(\.\d+)?\b`, `KEDA 2\.\d\d`, `from 1 replica to 0 and nowhere else`, `so a query without a result is 0`,
	"`rate\\(\\.\\.\\.\\[1m\\]\\)`", "`for: 10m`", `At 0 replicas there is`, `schema refuses 0`, `and it is 0 where nothing is wrong`,
	`parameters x 2 bytes \+ 25%`, `Llama-3\.1-8B in bf16 on an A100 with 40 GB`, "`v1/engine/core\\.py`",
}, "|"))

// The page's figures are the tests', each beside the name of the test that it
// comes from, and there are no others in it.
func TestPage(t *testing.T) {
	root := repository(t)
	content := read(t, root, "docs", "autoscaling.md")
	var chart chartValues
	if err := yaml.Unmarshal([]byte(read(t, root, "charts", "vllm", "values.yaml")), &chart); err != nil {
		t.Fatal(err)
	}
	chart.check(t)
	tests := testsHere(t)
	before, rest, _ := strings.Cut(content, "<!-- TestFitFigures -->")
	_, after, found := strings.Cut(rest, "<!-- end of TestFitFigures -->")
	if !found {
		t.Fatal("docs/autoscaling.md has no part that TestFitFigures writes")
	}
	// Lines end where they are full, and not where sentences do.
	page := strings.Join(strings.Fields(before+after), " ")
	left := page
	for _, s := range append(pageSays(chart), versions(t)...) {
		if !strings.Contains(page, s.text) {
			t.Errorf("docs/autoscaling.md does not say what %s is about: %q", s.test, s.text)
		}
		if !slices.Contains(tests, s.test) || !strings.Contains(content, "`"+s.test+"`") {
			t.Errorf("there is no %s, or docs/autoscaling.md does not name it", s.test)
		}
		left = strings.ReplaceAll(left, s.text, "")
	}
	left = quoted.ReplaceAllString(left, "")
	for _, at := range regexp.MustCompile(`\d`).FindAllStringIndex(left, -1) {
		t.Errorf("no test holds the figure in: ...%s...", left[max(0, at[0]-40):min(len(left), at[0]+40)])
	}
}

// versions are those of what runs in the tests.
func versions(t *testing.T) []said {
	t.Helper()
	makefile := read(t, repository(t), "Makefile")
	pinned := func(name string) string {
		found := regexp.MustCompile(`(?m)^` + name + `_VERSION := v(\d+\.\d+)`).FindStringSubmatch(makefile)
		if found == nil {
			t.Fatalf("the Makefile has no %s_VERSION", name)
		}
		return found[1]
	}
	keda := strings.TrimSuffix(strings.TrimPrefix(charts.KEDAVersion, "v"), ".0")
	return []said{
		{"TestPage", "a real KEDA " + keda + " (operator"},
		{"TestPage", fmt.Sprintf("Prometheus adapter %s, metrics-server %s and", pinned("PROMETHEUS_ADAPTER"), pinned("METRICS_SERVER"))},
		{"TestPage", "controller of Kubernetes " + pinned("KUBERNETES") + "."},
	}
}

// testsHere are the names of this package's tests, under any build tag.
func testsHere(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(content), -1) {
			names = append(names, found[1])
		}
	}
	return names
}

// per is a time as the page writes it.
func per(d time.Duration) string {
	switch {
	case d == time.Minute:
		return "a minute"
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%d hours", d/time.Hour)
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}
