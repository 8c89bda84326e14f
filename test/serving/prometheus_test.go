package serving

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stoker-project/stoker/test/cluster"
)

// scraped is what Prometheus finds in a test: replicas, and Stoker's own.
type scraped struct {
	*Replicas
	targets []Target
}

func newScraped(t *testing.T) *scraped {
	t.Helper()
	s := &scraped{Replicas: NewReplicas()}
	t.Cleanup(s.Close)
	return s
}

func (s *scraped) add(namespace, container, pod string, page func() string) {
	s.Set(pod, page)
	s.targets = append(s.targets, Target{
		Address: s.Address(), Path: "/" + pod + "/metrics",
		Labels: map[string]string{"namespace": namespace, "container": container, "pod": pod, "node": "gpu-1"},
	})
}

// replica is a pod of the Deployment, whose counters grow with every look, so
// that rates are not zero.
func (s *scraped) replica(name string, names Names, load Load) {
	var looks atomic.Int64
	s.add(namespace, "vllm", deployment+"-"+name, func() string {
		l := load
		n := looks.Add(1)
		l.Preemptions *= float64(n)
		l.Tokens *= float64(n)
		l.FirstToken = slices.Repeat(load.FirstToken, int(n))
		return Page(names, served, l)
	})
}

// agent is the page that the agent's own tests hold it to.
func (s *scraped) agent(t *testing.T, replacements ...string) {
	t.Helper()
	page := read(t, repository(t), "agent", "testdata", "metrics.txt")
	page = strings.NewReplacer(`model="warm"`, `model="`+model+`"`).Replace(page)
	if len(replacements) > 0 {
		changed := strings.NewReplacer(replacements...).Replace(page)
		for i := 0; i < len(replacements); i += 2 {
			if !strings.Contains(page, replacements[i]) {
				t.Fatalf("agent/testdata/metrics.txt has no %q any more", replacements[i])
			}
		}
		page = changed
	}
	var looks atomic.Int64
	s.add("stoker-system", "agent", "stoker-abcde", func() string {
		return strings.ReplaceAll(page, "LOOKS", fmt.Sprint(looks.Add(1)))
	})
}

func (s *scraped) sweeper(unattended int) {
	s.add("stoker-system", "sweeper", "stoker-sweeper-1-a", func() string {
		return fmt.Sprintf("stoker_sweep_nodes{state=\"attended\"} 3\nstoker_sweep_nodes{state=\"unattended\"} %d\n", unattended)
	})
}

func (s *scraped) by(t *testing.T, p *Prometheus) {
	t.Helper()
	if err := p.Scrape(s.targets); err != nil {
		t.Fatal(err)
	}
}

// wantSeries waits until a query has an answer that is not empty.
func wantSeries(t *testing.T, p *Prometheus, what, expr string) []Sample {
	t.Helper()
	var got []Sample
	err := cluster.WaitFor(t.Context(), what+": "+expr, func(ctx context.Context) (bool, error) {
		var err error
		got, err = p.Query(ctx, expr)
		return len(got) > 0, err
	})
	if err != nil {
		t.Error(err)
	}
	return got
}

// Every query of every dashboard, with the names of old and new releases of
// vLLM, and every query by which KEDA and the Prometheus adapter scale.
func TestQueriesReturnSeries(t *testing.T) {
	objs := renderMonitored(t)
	variables := map[string]string{"namespace": namespace, "served": served, "model": model}
	queries, err := Queries(objs, variables)
	if err != nil {
		t.Fatal(err)
	}
	if len(queries) < 30 {
		t.Fatalf("%d queries in the dashboards; the test reads them wrongly", len(queries))
	}
	for name, names := range map[string]Names{"v0.9.1": Before, "v0.10.2": Between, "v0.33.0": Since} {
		t.Run(name, func(t *testing.T) {
			p := start(t, objs)
			s := newScraped(t)
			s.replica("1-a", names, Load{Running: 3, Waiting: 4, KVCache: 0.25, Preemptions: 1, Tokens: 100, FirstToken: []float64{0.2, 0.7}})
			s.replica("1-b", names, Load{Running: 5, Waiting: 8, KVCache: 0.75, Preemptions: 1, Tokens: 100, FirstToken: []float64{0.3}})
			s.agent(t)
			s.sweeper(0)
			s.by(t, p)
			for _, q := range queries {
				wantSeries(t, p, q.Dashboard+", "+q.Panel, q.Expr)
			}
			for trigger, want := range map[string]string{"queue": "12", "kv-cache": "0.5"} {
				expr := triggerQuery(t, objs, trigger)
				if got := wantSeries(t, p, "trigger "+trigger, expr); len(got) != 1 || got[0].Value[1] != want {
					t.Errorf("trigger %s: %s gives %v, want one series of %s", trigger, expr, got, want)
				}
			}
		})
	}
}

// Every rule can be evaluated, in each of these plights every alert that it is
// about has series, and together they are all alerts. What fires, and when, is
// promtool's part.
func TestRulesSeePlights(t *testing.T) {
	objs := renderMonitored(t)
	seen := map[string]bool{}
	for name, plight := range map[string]struct {
		scrape func(s *scraped)
		alerts []string
	}{
		"nothing is there": {
			func(*scraped) {}, []string{"VLLMNoReplica", "StokerModelWarmNowhere"},
		},
		"the metrics are renamed": {
			func(s *scraped) { s.replica("1-a", Renamed, Load{}) }, []string{"VLLMMetricsMissing"},
		},
		"all is overloaded and broken": {
			func(s *scraped) {
				s.replica("1-a", Since, Load{Waiting: 100, KVCache: 0.99, Preemptions: 2, FirstToken: []float64{30}})
				s.add(namespace, "vllm", deployment+"-1-b", func() string { return "" })
				s.agent(t,
					`stoker_model_state{model="pulling",state="pulling"}`, `stoker_model_state{model="`+model+`",state="failed"}`,
					"stoker_store_readonly 0", "stoker_store_readonly 1",
					"stoker_scrub_bad_blobs_total 0", "stoker_scrub_bad_blobs_total LOOKS",
					"stoker_loop_last_turn_timestamp_seconds 1.8934992e+09", "stoker_loop_last_turn_timestamp_seconds 1e9",
				)
				s.sweeper(2)
			},
			[]string{
				"VLLMReplicaStuckStarting", "VLLMRequestsWaiting", "VLLMKVCacheFull", "VLLMPreemptions", "VLLMSlowFirstToken",
				"StokerModelWarmOnTooFewNodes", "StokerModelPullFailing", "StokerAgentDown", "StokerAgentStuck", "StokerPullsFailing",
				"StokerStoreNearlyFull", "StokerStoreUnknown", "StokerGPUMemoryLeaked", "StokerListRejected", "StokerBytesRotted",
				"StokerWarmNowhere", "StokerWarmOnTooFewNodes",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, objs)
			s := newScraped(t)
			plight.scrape(s)
			s.by(t, p)
			var rules []Rule
			err := cluster.WaitFor(t.Context(), fmt.Sprintf("the alerts %q to be pending or firing", plight.alerts), func(ctx context.Context) (bool, error) {
				var err error
				rules, err = p.Rules(ctx)
				var raised []string
				for _, r := range rules {
					if r.Health == "unknown" {
						return false, fmt.Errorf("%s was not evaluated yet", r.Name)
					}
					if r.State == "pending" || r.State == "firing" {
						raised = append(raised, r.Name)
					}
				}
				for _, alert := range plight.alerts {
					if !slices.Contains(raised, alert) {
						return false, fmt.Errorf("%s is not among %q", alert, raised)
					}
				}
				return err == nil, err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rules {
				if r.Health != "ok" {
					t.Errorf("%s: %s: %s", r.Name, r.Health, r.LastError)
				}
				for _, a := range r.Alerts {
					for _, text := range a.Annotations {
						if strings.Contains(text, "error expanding") || strings.Contains(text, "<no value>") || strings.Contains(text, "{{") {
							t.Errorf("%s says %q", r.Name, text)
						}
					}
				}
			}
			for _, alert := range plight.alerts {
				seen[alert] = true
			}
		})
	}
	for _, alert := range alerts(t, objs) {
		if !seen[alert] && !t.Failed() && !t.Skipped() && len(seen) > 0 {
			t.Errorf("no plight is about %s", alert)
		}
	}
}

// The agent's page has each name that rules and dashboards use of Stoker's; an
// agent that renames one would silence them.
func TestStokersMetricsExist(t *testing.T) {
	root := repository(t)
	known := map[string]bool{}
	for _, name := range findNames(read(t, root, "agent", "testdata", "metrics.txt")) {
		known[name] = true
	}
	// The sweeper has no golden page: its names stand in its source behind one prefix.
	for _, found := range sweepName.FindAllStringSubmatch(read(t, root, "agent", "sweep", "metrics.go"), -1) {
		known["stoker_sweep_"+found[1]] = true
	}
	objs := renderMonitored(t)
	rules, err := RulesFile(objs)
	if err != nil {
		t.Fatal(err)
	}
	text := string(rules)
	queries, err := Queries(objs, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range queries {
		text += q.Expr + "\n"
	}
	used := findNames(text)
	if len(used) < 15 {
		t.Fatalf("found only %q", used)
	}
	for _, name := range used {
		if !known[name] {
			t.Errorf("%s is no metric of Stoker's", name)
		}
	}
}

// A Deployment of several ready replicas has one series that says so: to count
// it, as recipes do to divide by replicas, gives 1.
func TestCountOfReplicasIsOne(t *testing.T) {
	p := start(t, nil)
	s := newScraped(t)
	const name = "kube_deployment_status_replicas_ready"
	s.add("monitoring", "kube-state-metrics", "kube-state-metrics-1-a", func() string {
		return fmt.Sprintf("%s{namespace=%q,deployment=%q} %d\n", name, namespace, deployment, most)
	})
	s.by(t, p)
	// The scrape's own labels win over the page's, whose namespace becomes exported_namespace.
	const series = name + `{deployment="` + deployment + `"}`
	for query, want := range map[string]string{"count(" + series + ")": "1", "sum(" + series + ")": fmt.Sprint(most)} {
		if got := wantSeries(t, p, "replicas", query); len(got) != 1 || got[0].Value[1] != want {
			t.Errorf("%s gives %v, want %s", query, got, want)
		}
	}
}

// The README's rules for the Prometheus adapter name what the HPA asks for, and
// their queries have answers.
func TestAdapterRules(t *testing.T) {
	objs := render(t, "model: {name: "+model+", servedName: "+served+"}\nautoscaling: {kind: hpa}")
	wanted := hpaMetrics(t, objs)
	rules := adapterRules(t, read(t, repository(t), "charts", "vllm", "README.md"))
	p := start(t, nil)
	s := newScraped(t)
	s.replica("1-a", Before, Load{Waiting: 4, KVCache: 0.25})
	s.replica("1-b", Since, Load{Waiting: 8, KVCache: 0.75})
	s.by(t, p)
	for _, metric := range wanted {
		rule, ok := rules[metric]
		if !ok {
			t.Errorf("the README has no rule for %s", metric)
			continue
		}
		wantSeries(t, p, "the adapter's series of "+metric, rule.SeriesQuery)
		// As the adapter fills it in for pods of the namespace.
		pods := fmt.Sprintf(`namespace=%q,pod=~"%s-1-a|%s-1-b"`, namespace, deployment, deployment)
		expr := strings.NewReplacer("<<.LabelMatchers>>", pods, "<<.GroupBy>>", "pod").Replace(rule.MetricsQuery)
		err := cluster.WaitFor(t.Context(), metric+" of both pods", func(ctx context.Context) (bool, error) {
			got, err := p.Query(ctx, expr)
			return len(got) == 2, err
		})
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(metric), err)
		}
	}
}
