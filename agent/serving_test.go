package agent

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestServingMistakes: what vLLM refuses of every model is a mistake of the list.
func TestServingMistakes(t *testing.T) {
	for serving, want := range map[string]string{
		"{maxNumSeqs: 256, maxNumBatchedTokens: 128}":                     "models[0].serving: vLLM refuses batches of at most 128 tokens",
		"{extraArgs: [--max-num-seqs=none]}":                              `models[0].serving.extraArgs: --max-num-seqs "none": it takes a whole number`,
		"{maxNumSeqs: 256, extraArgs: [--max-num-batched-tokens, '128']}": "models[0].serving.extraArgs: vLLM refuses",
		"{pipelineParallel: 5000}":                                        "models[0].serving: pipelineParallel is 5000",
		"{extraArgs: [1]}":                                                "models[0].serving.extraArgs[0]",
	} {
		_, err := ParseConfig([]byte("models: [{source: 'hf://o/n', serving: " + serving + "}]"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", serving, err, want)
		}
	}
}

// TestServingDoubts: what is not counted is no mistake, and is logged.
func TestServingDoubts(t *testing.T) {
	for serving, want := range map[string][]string{
		"{}":                          nil,
		"{kvCacheDtype: auto}":        nil,
		"{kvCacheDtype: nvfp4}":       nil,
		"{kvCacheDtype: octave_k3v4}": {"serving.kvCacheDtype: the size of a KV cache of type \"octave_k3v4\" is not known here; it is counted as auto"},
		"{extraArgs: [--enable-prefix-caching, --max-num-seqs=128]}": nil,
		"{extraArgs: [--enable-lora, --speculative-config, '{}']}": {
			"serving.extraArgs: what --enable-lora takes is not counted", "serving.extraArgs: what --speculative-config takes is not counted",
		},
	} {
		cfg := parse(t, "models: [{source: 'hf://o/n', serving: "+serving+"}]")
		if diff := cmp.Diff(want, servingDoubts(cfg.Models[0].Serving)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", serving, diff)
		}
		var log bytes.Buffer
		a := &Agent{logger: slog.New(slog.NewTextHandler(&log, nil))}
		a.warnServing(cfg.Models)
		if lines := strings.Count(log.String(), "count fits as an estimate"); lines != len(want) {
			t.Errorf("%s: %d lines were logged: %s", serving, lines, &log)
		}
	}
	var log bytes.Buffer
	a := &Agent{logger: slog.New(slog.NewTextHandler(&log, nil))}
	a.warnServing(parse(t, "models: [{source: 'hf://o/n', serving: {extraArgs: [-dp=2, --enable-lora]}}]").Models)
	if got := log.String(); strings.Contains(got, "estimate") || !strings.Contains(got, "publish no fits label") || !strings.Contains(got, "how many GPUs a replica takes") {
		t.Errorf("of replicas of an unknown number of GPUs was logged: %s", got)
	}
	unknown := parse(t, "models: [{source: 'hf://o/n', serving: {kvCacheDtype: of_tomorrow}}]")
	if doubts := servingDoubts(unknown.Models[0].Serving); len(doubts) != 1 || !strings.Contains(doubts[0], "no KV cache of type") {
		t.Errorf("a type of the next release: %q", doubts)
	}
}
