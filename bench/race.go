//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/bench/measure"
)

// race is contenders that get the same files from the same server.
type race struct {
	contenders []contender
	files      []file
	server     *server
	rounds     int
	// warmUp is a round more, before the others, that does not count.
	warmUp bool
	// start runs the contenders elsewhere; nil means here.
	start func(*exec.Cmd) error
	// before is called before every run with a seed that is the same for all
	// contenders of a round; nil for nothing.
	before func(seed uint64)
}

// cost is one run's.
type cost struct {
	measure.Usage
	// server is what the server's CPU had to do for it.
	server time.Duration
}

// result is a contender's runs, by round; nil where it failed.
type result struct {
	contender
	runs   []*cost
	failed int // how often it failed, the warm-up included
}

// runLimit ends a run that hangs.
const runLimit = 15 * time.Minute

// run runs every contender once a round, each round in another order.
func (b *bench) run(ctx context.Context, r race) ([]result, error) {
	results := make([]result, len(r.contenders))
	for i, c := range r.contenders {
		results[i] = result{contender: c, runs: make([]*cost, r.rounds)}
	}
	order := rand.New(rand.NewPCG(b.seed, 0))
	first := 0
	if r.warmUp {
		first = -1
	}
	deep := true // every contender's bytes are looked at once
	for round := first; round < r.rounds; round++ {
		began := time.Now()
		for _, i := range order.Perm(len(results)) {
			if r.before != nil {
				r.before(b.seed + uint64(round-first))
			}
			c, err := b.once(ctx, r, results[i].contender, deep)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			switch {
			case err != nil:
				results[i].failed++
				b.say("%s FAILED: %v", results[i].name, err)
			case round >= 0:
				results[i].runs[round] = &c
			}
			if err == nil {
				b.say("  %-22s %7.2f s wall %7.2f s CPU %5d MiB", results[i].name, c.Wall.Seconds(), c.CPU.Seconds(), c.PeakRSS>>20)
			}
		}
		took := time.Since(began)
		deep = false
		b.say("round %d of %d took %s; about %s to go", round+1, r.rounds, took.Round(time.Second),
			(took * time.Duration(r.rounds-round-1)).Round(time.Second))
	}
	return results, nil
}

// once runs a contender into a fresh directory and looks at what landed there.
func (b *bench) once(ctx context.Context, r race, c contender, deep bool) (_ cost, err error) {
	dir, err := os.MkdirTemp(b.work, "run-")
	if err != nil {
		return cost{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// What another one wrote must not be written out now.
	unix.Sync()
	command := c.command(dir)
	command.Start = r.start
	limited, cancel := context.WithTimeoutCause(ctx, runLimit, fmt.Errorf("it took more than %s", runLimit))
	defer cancel()
	before, err := measure.CPU(r.server.pid())
	if err != nil {
		return cost{}, fmt.Errorf("the server has ended: %w", err)
	}
	usage, err := measure.Run(limited, command)
	if err != nil {
		return cost{}, err
	}
	after, err := measure.CPU(r.server.pid())
	if err != nil {
		return cost{}, fmt.Errorf("the server has ended: %w", err)
	}
	at := func(path string) string { return c.at(dir, path) }
	return cost{usage, after - before}, check(ctx, r.files, at, deep)
}

// find returns a contender's result, or nil.
func find(results []result, name string) *result {
	for i := range results {
		if results[i].name == name {
			return &results[i]
		}
	}
	return nil
}

// values of one kind, of the runs that did not fail.
func (r *result) values(of func(*cost) float64) []float64 {
	var list []float64
	for _, c := range r.runs {
		if c != nil {
			list = append(list, of(c))
		}
	}
	return list
}

// ratios of r's numbers to another's, within each round.
func (r *result) ratios(to *result, of func(*cost) float64) measure.Spread {
	if r == nil || to == nil {
		return measure.Spread{}
	}
	var list []float64
	for i, c := range r.runs {
		if other := to.runs[i]; c != nil && other != nil && of(other) > 0 {
			list = append(list, of(c)/of(other))
		}
	}
	return measure.SpreadOf(list)
}

func wall(c *cost) float64      { return c.Wall.Seconds() }
func cpu(c *cost) float64       { return c.CPU.Seconds() }
func serverCPU(c *cost) float64 { return c.server.Seconds() }
func peakRSS(c *cost) float64   { return float64(c.PeakRSS) / (1 << 20) }
func peakAnon(c *cost) float64  { return float64(c.PeakAnon) / (1 << 20) }
