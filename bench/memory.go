//go:build linux

package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/stoker-project/stoker/bench/measure"
)

// memory looks at stoker's peak with a model that is larger.
func (b *bench) memory(ctx context.Context) (_ string, err error) {
	if err := b.room(ctx, 2*int64(b.memorySize)+2<<30); err != nil {
		return "", err
	}
	model := filepath.Join(b.work, "large")
	b.say("writing a model of %s", &b.memorySize)
	files, err := writeModel(ctx, model, b.seed, int64(b.memorySize))
	if err != nil {
		return "", err
	}
	server, hub, err := startHub(ctx, []string{"-model", model}, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	contenders := []contender{b.floors(hub, files)[1], b.stokerFromHub(ctx, hub)}
	results, err := b.run(ctx, race{contenders: contenders, files: files, server: server, rounds: 1})
	if err != nil {
		return "", err
	}
	var t table
	t.line("%s in %d files, once. %s.\n", &b.memorySize, len(files), b.machine())
	t.costs(results, nameFloor)
	t.targets(peakTarget(find(results, nameStoker)))
	t.failures(b, results)
	return t.String(), nil
}

// peakTarget is about the highest peak of all rounds.
func peakTarget(stoker *result) target {
	peaks := stoker.values(peakRSS)
	if len(peaks) > 0 {
		peaks = []float64{highest(peaks)}
	}
	return target{says: "stoker pull, highest peak of memory", measure: measure.SpreadOf(peaks), limit: 96, unit: " MiB"}
}
