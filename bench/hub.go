//go:build linux

package main

import (
	"context"
	"errors"
	"path/filepath"
)

// hub compares all who can fetch from the Hub, over loopback.
func (b *bench) hub(ctx context.Context) (_ string, err error) {
	// The model, and twice that while one of them writes and another is removed.
	if err := b.room(ctx, 3*int64(b.size)); err != nil {
		return "", err
	}
	model := filepath.Join(b.work, "model")
	b.say("writing a model of %s", &b.size)
	files, err := writeModel(ctx, model, b.seed, int64(b.size))
	if err != nil {
		return "", err
	}
	server, hub, err := startHub(ctx, []string{"-model", model}, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	contenders := append(b.floors(hub, files), b.stokerFromHub(ctx, hub))
	if c, ok := b.curlParallel(ctx, hub, files); ok {
		contenders = append(contenders, c)
	}
	contenders = append(contenders, b.aria2(ctx, hub, files)...)
	if c, ok := b.hubClient(ctx, hub); ok {
		contenders = append(contenders, c)
	}
	results, err := b.run(ctx, race{contenders: contenders, files: files, server: server, rounds: b.rounds, warmUp: true})
	if err != nil {
		return "", err
	}
	return b.hubTable(results, files), nil
}

func (b *bench) hubTable(results []result, files []file) string {
	var t table
	t.line("%s in %d files, %d rounds. %s.\n\n%s.\n", &b.size, len(files), b.rounds, b.machine(), versions(results))
	t.costs(results, nameFloor)
	stoker, floor := find(results, nameStoker), find(results, nameFloor)
	t.targets(
		target{says: "stoker pull, wall / verified floor", measure: stoker.ratios(floor, wall), limit: 1.15},
		target{says: "stoker pull, CPU / verified floor", measure: stoker.ratios(floor, cpu), limit: 1.2},
		target{says: "huggingface_hub, wall / stoker pull", measure: find(results, nameHub).ratios(stoker, wall), limit: 2.5, atLeast: true},
		target{says: "aria2c with checksums, wall / stoker pull", measure: find(results, nameChecking).ratios(stoker, wall), limit: 4, atLeast: true},
		peakTarget(stoker),
	)
	t.failures(b, results)
	return t.String()
}
