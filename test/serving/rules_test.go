package serving

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// series are what Prometheus would have scraped, one value every 30 s, in
// promtool's notation: 1x60 is 1, and that 60 times more; 0+3x60 grows by 3.
type series map[string]string

// of is a series of this model's and namespace's vLLM, in one pod.
func of(name, pod string, labels ...string) string {
	text := fmt.Sprintf(`%s{namespace=%q,pod="%s-%s",container="vllm",model_name=%q,engine="0"`, name, namespace, deployment, pod, served)
	for i := 0; i < len(labels); i += 2 {
		text += fmt.Sprintf(",%s=%q", labels[i], labels[i+1])
	}
	return text + "}"
}

func up(pod string) string {
	return fmt.Sprintf(`up{namespace=%q,pod="%s-%s",container="vllm"}`, namespace, deployment, pod)
}

// onNode is a series of the agent of a node.
func onNode(name, node string, labels ...string) string {
	text := fmt.Sprintf(`%s{namespace="stoker-system",container="agent",pod="stoker-%s",node=%q`, name, node, node)
	for i := 0; i < len(labels); i += 2 {
		text += fmt.Sprintf(",%s=%q", labels[i], labels[i+1])
	}
	return text + "}"
}

func stateOf(node, name, state string) string {
	return onNode("stoker_model_state", node, "model", name, "state", state)
}

func warmOf(node, name string) string { return onNode("stoker_model_warm", node, "model", name) }

// ruleCases say for each alert when it fires, after an hour, and when it does
// not. fires is how many alerts there are then.
var ruleCases = []struct {
	alert, when string
	series      series
	fires       int
}{
	{"VLLMNoReplica", "no pod answers", series{up("1-a"): "0x120"}, 1},
	{"VLLMNoReplica", "there is no pod", series{}, 1},
	{"VLLMNoReplica", "one of two answers", series{up("1-a"): "0x120", up("1-b"): "1x120"}, 0},
	{"VLLMNoReplica", "only another Deployment's pod answers", series{`up{namespace="serving",pod="other-vllm-1-a",container="vllm"}`: "1x120"}, 1},
	{"VLLMNoReplica", "away for 9 minutes", series{up("1-a"): "1x101 0x18"}, 0},

	{"VLLMReplicaStuckStarting", "a pod has not answered for 45 minutes", series{up("1-a"): "0x120", up("1-b"): "1x120"}, 1},
	{"VLLMReplicaStuckStarting", "a pod has not answered for 40 minutes", series{up("1-a"): "1x39 0x80"}, 0},
	{"VLLMReplicaStuckStarting", "a pod took 40 minutes", series{up("1-a"): "0x80 1x39"}, 0},

	{"VLLMMetricsMissing", "the queue is renamed", series{up("1-a"): "1x120", of("vllm:kv_cache_usage_perc", "1-a"): "0x120"}, 1},
	{"VLLMMetricsMissing", "the cache is renamed", series{up("1-a"): "1x120", of("vllm:num_requests_waiting", "1-a"): "0x120"}, 1},
	{"VLLMMetricsMissing", "another served name", series{
		up("1-a"): "1x120", `vllm:num_requests_waiting{namespace="serving",pod="qwen-vllm-1-a",model_name="other"}`: "0x120",
		`vllm:kv_cache_usage_perc{namespace="serving",pod="qwen-vllm-1-a",model_name="other"}`: "0x120",
	}, 1},
	{"VLLMMetricsMissing", "new names", series{up("1-a"): "1x120", of("vllm:num_requests_waiting", "1-a"): "0x120", of("vllm:kv_cache_usage_perc", "1-a"): "0x120"}, 0},
	{"VLLMMetricsMissing", "old names", series{up("1-a"): "1x120", of("vllm:num_requests_waiting", "1-a"): "0x120", of("vllm:gpu_cache_usage_perc", "1-a"): "0x120"}, 0},
	{"VLLMMetricsMissing", "one of two has them", series{
		up("1-a"): "1x120", up("2-b"): "1x120", of("vllm:num_requests_waiting", "1-a"): "0x120", of("vllm:kv_cache_usage_perc", "1-a"): "0x120",
		of("vllm:kv_cache_usage_perc", "2-b"): "0x120",
	}, 1},
	{"VLLMMetricsMissing", "only a pod that is gone has them", series{
		up("2-b"): "1x120", of("vllm:num_requests_waiting", "1-a"): "0x120", of("vllm:kv_cache_usage_perc", "1-a"): "0x120",
	}, 1},
	{"VLLMMetricsMissing", "no pod answers", series{up("1-a"): "0x120"}, 0},

	{"VLLMRequestsWaiting", "50 wait for two replicas", series{of("vllm:num_requests_waiting", "1-a"): "40x120", of("vllm:num_requests_waiting", "1-b"): "10x120"}, 1},
	{"VLLMRequestsWaiting", "30 wait for two replicas", series{of("vllm:num_requests_waiting", "1-a"): "30x120", of("vllm:num_requests_waiting", "1-b"): "0x120"}, 0},
	{"VLLMRequestsWaiting", "two engines of one replica", series{
		of("vllm:num_requests_waiting", "1-a"): "15x120", `vllm:num_requests_waiting{namespace="serving",pod="qwen-vllm-1-a",model_name="Qwen/Qwen2.5-7B-Instruct",engine="1"}`: "15x120",
	}, 1},
	{"VLLMRequestsWaiting", "another namespace", series{`vllm:num_requests_waiting{namespace="other",pod="x",model_name="Qwen/Qwen2.5-7B-Instruct"}`: "100x120"}, 0},
	{"VLLMRequestsWaiting", "for 5 minutes", series{of("vllm:num_requests_waiting", "1-a"): "0x109 100x10"}, 0},

	{"VLLMKVCacheFull", "new name", series{of("vllm:kv_cache_usage_perc", "1-a"): "0.99x120"}, 1},
	{"VLLMKVCacheFull", "old name", series{of("vllm:gpu_cache_usage_perc", "1-a"): "0.99x120"}, 1},
	{"VLLMKVCacheFull", "a fleet in which both are", series{of("vllm:gpu_cache_usage_perc", "1-a"): "0.99x120", of("vllm:kv_cache_usage_perc", "1-b"): "0.97x120"}, 1},
	{"VLLMKVCacheFull", "both names of one release, counted once", series{of("vllm:gpu_cache_usage_perc", "1-a"): "0.99x120", of("vllm:kv_cache_usage_perc", "1-a"): "0.99x120", of("vllm:kv_cache_usage_perc", "1-b"): "0.90x120"}, 0},
	{"VLLMKVCacheFull", "80%", series{of("vllm:kv_cache_usage_perc", "1-a"): "0.8x120"}, 0},

	{"VLLMPreemptions", "0.2 a second", series{of("vllm:num_preemptions_total", "1-a"): "0+6x120"}, 1},
	{"VLLMPreemptions", "a burst of 20, an hour ago", series{of("vllm:num_preemptions_total", "1-a"): "0x4 20x115"}, 0},
	{"VLLMPreemptions", "0.03 a second", series{of("vllm:num_preemptions_total", "1-a"): "0+1x120"}, 0},

	{"VLLMSlowFirstToken", "each takes 5 to 7.5 s", series{
		of("vllm:time_to_first_token_seconds_bucket", "1-a", "le", "5.0"): "0x120", of("vllm:time_to_first_token_seconds_bucket", "1-a", "le", "7.5"): "0+10x120",
		of("vllm:time_to_first_token_seconds_bucket", "1-a", "le", "+Inf"): "0+10x120",
	}, 1},
	{"VLLMSlowFirstToken", "one of a hundred does", series{
		of("vllm:time_to_first_token_seconds_bucket", "1-a", "le", "5.0"): "0+99x120", of("vllm:time_to_first_token_seconds_bucket", "1-a", "le", "7.5"): "0+100x120",
		of("vllm:time_to_first_token_seconds_bucket", "1-a", "le", "+Inf"): "0+100x120",
	}, 0},
	{"VLLMSlowFirstToken", "nobody asks", series{of("vllm:time_to_first_token_seconds_bucket", "1-a", "le", "5.0"): "0x120", of("vllm:time_to_first_token_seconds_bucket", "1-a", "le", "+Inf"): "3x120"}, 0},

	{"StokerModelWarmNowhere", "no node is warm", series{warmOf("a", model): "0x120", warmOf("b", model): "0x120", warmOf("b", "other"): "1x120"}, 1},
	{"StokerModelWarmNowhere", "no agent knows the model", series{warmOf("a", "other"): "1x120"}, 1},
	{"StokerModelWarmNowhere", "one node is", series{warmOf("a", model): "0x120", warmOf("b", model): "1x120"}, 0},

	{"StokerModelWarmOnTooFewNodes", "one of two that should be", series{
		warmOf("a", model): "0x120", stateOf("a", model, "pulling"): "1x120", warmOf("b", model): "1x120", stateOf("b", model, "warm"): "1x120",
	}, 1},
	{"StokerModelWarmOnTooFewNodes", "the other one is skipped", series{
		warmOf("a", model): "0x120", stateOf("a", model, "skipped"): "1x120", warmOf("b", model): "1x120", stateOf("b", model, "warm"): "1x120",
	}, 0},
	{"StokerModelWarmOnTooFewNodes", "it updates, and is warm meanwhile", series{warmOf("a", model): "1x120", stateOf("a", model, "updating"): "1x120"}, 0},

	{"StokerModelPullFailing", "on one node", series{stateOf("a", model, "failed"): "1x120"}, 1},
	{"StokerModelPullFailing", "another model's", series{stateOf("a", "other", "failed"): "1x120"}, 0},
	{"StokerModelPullFailing", "it failed once", series{stateOf("a", model, "failed"): "1x4 _x115", stateOf("a", model, "pulling"): "_x4 1x115"}, 0},

	{"StokerAgentDown", "one does not answer", series{onNode("up", "a"): "0x120", onNode("up", "b"): "1x120"}, 1},
	{"StokerAgentDown", "the sweeper misses two", series{onNode("up", "b"): "1x120", `stoker_sweep_nodes{state="unattended"}`: "2x120", `stoker_sweep_nodes{state="attended"}`: "1x120"}, 1},
	{"StokerAgentDown", "all answer", series{onNode("up", "a"): "1x120", `stoker_sweep_nodes{state="unattended"}`: "0x120"}, 0},
	{"StokerAgentDown", "one restarts", series{onNode("up", "a"): "1x109 0x6 1x4"}, 0},

	{"StokerAgentStuck", "its loop stands", series{onNode("stoker_loop_last_turn_timestamp_seconds", "a"): "0x120"}, 1},
	{"StokerAgentStuck", "its loop turns", series{onNode("stoker_loop_last_turn_timestamp_seconds", "a"): "0+30x120"}, 0},

	{"StokerPullsFailing", "two models on one node", series{stateOf("a", model, "failed"): "1x120", stateOf("a", "other", "failed"): "1x120"}, 2},
	{"StokerPullsFailing", "they are pulled", series{stateOf("a", model, "pulling"): "1x120"}, 0},

	{"StokerStoreNearlyFull", "1% of the quota is left", series{
		onNode("stoker_store_room_bytes", "a"): "1x120", onNode("stoker_store_quota_bytes", "a"): "100x120", onNode("stoker_store_filesystem_size_bytes", "a"): "1000x120",
	}, 1},
	{"StokerStoreNearlyFull", "the reserve is crossed", series{onNode("stoker_store_room_bytes", "a"): "-1x120", onNode("stoker_store_filesystem_size_bytes", "a"): "1000x120"}, 1},
	{"StokerStoreNearlyFull", "half is left", series{onNode("stoker_store_room_bytes", "a"): "500x120", onNode("stoker_store_filesystem_size_bytes", "a"): "1000x120"}, 0},

	{"StokerStoreUnknown", "it is not there", series{onNode("stoker_store_known", "a"): "0x120"}, 1},
	{"StokerStoreUnknown", "it is read-only", series{onNode("stoker_store_known", "a"): "1x120", onNode("stoker_store_readonly", "a"): "1x120"}, 1},
	{"StokerStoreUnknown", "all is well", series{onNode("stoker_store_known", "a"): "1x120", onNode("stoker_store_readonly", "a"): "0x120"}, 0},

	{"StokerGPUMemoryLeaked", "on one of two GPUs", series{onNode("stoker_gpu_leaked_bytes", "a", "index", "0"): "0x120", onNode("stoker_gpu_leaked_bytes", "a", "index", "1"): "7e9x120"}, 1},
	{"StokerGPUMemoryLeaked", "it came back", series{onNode("stoker_gpu_leaked_bytes", "a", "index", "1"): "7e9x100 0x19"}, 0},

	{"StokerListRejected", "by every agent, told once", series{onNode("stoker_list_rejected", "a"): "1x120", onNode("stoker_list_rejected", "b"): "1x120"}, 1},
	{"StokerListRejected", "by none", series{onNode("stoker_list_rejected", "a"): "0x120"}, 0},

	{"StokerWarmNowhere", "one of two models", series{warmOf("a", model): "0x120", warmOf("b", model): "0x120", warmOf("b", "other"): "1x120"}, 1},
	{"StokerWarmNowhere", "each is somewhere", series{warmOf("a", model): "0x120", warmOf("b", model): "1x120", warmOf("a", "other"): "1x120"}, 0},

	{"StokerWarmOnTooFewNodes", "one of two nodes, of two models", series{
		warmOf("a", model): "0x120", stateOf("a", model, "pulling"): "1x120", warmOf("b", model): "1x120", stateOf("b", model, "warm"): "1x120",
		warmOf("a", "other"): "0x120", stateOf("a", "other", "failed"): "1x120",
	}, 2},
	{"StokerWarmOnTooFewNodes", "the other node is skipped", series{
		warmOf("a", model): "0x120", stateOf("a", model, "skipped"): "1x120", warmOf("b", model): "1x120", stateOf("b", model, "warm"): "1x120",
	}, 0},

	{"StokerBytesRotted", "a blob in the last hour", series{onNode("stoker_scrub_bad_blobs_total", "a"): "0x60 1x59"}, 1},
	{"StokerBytesRotted", "two hours ago", series{onNode("stoker_scrub_bad_blobs_total", "a"): "0x10 1x300"}, 0},
}

// promtool's own test of the rules: each alert fires, and does not.
func TestRules(t *testing.T) {
	promtool := find(t, "promtool")
	objs := renderMonitored(t)
	rules, err := RulesFile(objs)
	if err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]bool{}, map[string]bool{}
	tests := []any{}
	for _, c := range ruleCases {
		at := "1h"
		if c.alert == "StokerBytesRotted" && c.fires == 0 {
			at = "2h30m"
		}
		input := []any{}
		for name, values := range c.series {
			input = append(input, map[string]any{"series": name, "values": values})
		}
		want := []any{}
		if c.fires > 0 {
			want = append(want, map[string]any{"labels": "{}", "value": c.fires})
		}
		(map[bool]map[string]bool{true: fires, false: quiet})[c.fires > 0][c.alert] = true
		tests = append(tests, map[string]any{
			"name": c.alert + ": " + c.when, "interval": "30s", "input_series": input,
			"promql_expr_test": []any{map[string]any{
				"expr": fmt.Sprintf("count(ALERTS{alertname=%q,alertstate=\"firing\"})", c.alert), "eval_time": at, "exp_samples": want,
			}},
		})
	}
	for _, alert := range alerts(t, objs) {
		if !fires[alert] || !quiet[alert] {
			t.Errorf("no case in which %s fires, or none in which it does not", alert)
		}
	}
	runPromtool(t, promtool, rules, map[string]any{"rule_files": []string{"rules.yml"}, "evaluation_interval": "30s", "tests": tests})
}

// runPromtool checks a file of rules, and runs a test of it.
func runPromtool(t *testing.T, promtool string, rules []byte, test map[string]any) {
	t.Helper()
	content, err := yaml.Marshal(test)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, file := range map[string][]byte{"rules.yml": rules, "test.yml": content} {
		if err := os.WriteFile(filepath.Join(dir, name), file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"check", "rules", "rules.yml"}, {"test", "rules", "test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %q: %v\n%s", args, err, out)
		}
	}
}

// Hours of preemptions, of which one scrape in some is missed: the chart's alert
// fires, and the one with a window of a
// minute, which people copy, never does, because after each missed scrape it has
// one sample only and begins anew.
func TestOneMinuteWindowMissesPreemptions(t *testing.T) {
	promtool := find(t, "promtool")
	objs := renderMonitored(t)
	rules, err := RulesFile(objs)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []any `json:"groups"`
	}
	if err := yaml.Unmarshal(rules, &file); err != nil {
		t.Fatal(err)
	}
	file.Groups = append(file.Groups, map[string]any{"name": "copied", "rules": []any{map[string]any{
		"alert": "Copied", "expr": "sum(rate(vllm:num_preemptions_total[1m])) > 0.1", "for": "10m",
	}}})
	if rules, err = yaml.Marshal(file); err != nil {
		t.Fatal(err)
	}
	if over := fmt.Sprintf("[%.0fm]", preemptWindow.Minutes()); !strings.Contains(string(rules), "num_preemptions_total{") || !strings.Contains(string(rules), over) {
		t.Errorf("the chart's alert on preemptions is not over %s", over)
	}
	values := ""
	for i := range int(preempted/scrapeRules) + 1 {
		if i%missedEvery == missedEvery-1 {
			values += "_ "
			continue
		}
		values += fmt.Sprintf("%.0f ", preemptions*scrapeRules.Seconds()*float64(i))
	}
	firing := func(alert string) string {
		return fmt.Sprintf("count(ALERTS{alertname=%q,alertstate=\"firing\"})", alert)
	}
	expressions := []any{}
	for _, at := range []string{"30m", "45m", "1h", "1h15m", "1h30m", "2h"} {
		expressions = append(expressions,
			map[string]any{"expr": firing("VLLMPreemptions"), "eval_time": at, "exp_samples": []any{map[string]any{"labels": "{}", "value": 1}}},
			map[string]any{"expr": firing("Copied"), "eval_time": at, "exp_samples": []any{}},
		)
	}
	runPromtool(t, promtool, rules, map[string]any{
		// Evaluations do not fall on scrapes, as they do not in a real Prometheus.
		"rule_files": []string{"rules.yml"}, "evaluation_interval": "20s",
		"tests": []any{map[string]any{
			"interval": scrapeRules.String(), "input_series": []any{map[string]any{"series": of("vllm:num_preemptions_total", "1-a"), "values": values}},
			"promql_expr_test": expressions,
		}},
	})
}
