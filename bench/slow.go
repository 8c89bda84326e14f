//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/stoker-project/stoker/bench/link"
	"github.com/stoker-project/stoker/bench/measure"
)

const mbit = 1_000_000

// congestion is what most servers use, whatever this kernel would.
const congestion = "cubic"

// shapes are links that people have.
func shapes() []link.Shape {
	return []link.Shape{
		{Rate: 200 * mbit, RTT: 40 * time.Millisecond},
		{Rate: 200 * mbit, RTT: 40 * time.Millisecond, Loss: 0.005},
		{Rate: 50 * mbit, RTT: 20 * time.Millisecond, Loss: 0.02},
	}
}

// link compares over links that are slow, far and lossy.
func (b *bench) link(ctx context.Context) (string, error) {
	if err := link.Possible(); err != nil {
		return "", skipError(err.Error())
	}
	model := filepath.Join(b.work, "small")
	files, err := writeModel(ctx, model, b.seed, int64(b.linkSize))
	if err != nil {
		return "", err
	}
	var t table
	t.line("%s in %d files, %d rounds a link, TCP %s. %s.\n", &b.linkSize, len(files), b.linkRounds, congestion, b.machine())
	t.head("link", "", "share of its rate that was used", "wall s", "times as fast as it: stoker pull")
	var all []result
	for _, shape := range shapes() {
		results, err := b.overLink(ctx, shape, model, files)
		if err != nil {
			return "", err
		}
		all = append(all, results...)
		for i := range results {
			r := &results[i]
			if len(r.values(wall)) == 0 {
				t.line("| %s | %s | failed | | |", describe(shape), r.name)
				continue
			}
			t.line("| %s | %s | %s | %s | %s |", describe(shape), r.name,
				share(r, float64(total(files))*8/float64(shape.Rate)), seconds(r, wall), ratio(r.ratios(find(results, nameStoker), wall)))
		}
	}
	t.line("")
	t.failures(b, all)
	return t.String(), nil
}

// overLink races over one link.
func (b *bench) overLink(ctx context.Context, shape link.Shape, model string, files []file) (_ []result, err error) {
	b.say("### %s", describe(shape))
	l, err := link.New(ctx, shape)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	server, hub, err := startHub(ctx, []string{"-model", model, "-ip", link.ServerIP, "-congestion", congestion}, l.Server.Start)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	contenders := []contender{b.stokerFromHub(ctx, hub)}
	if c, ok := b.curlParallel(ctx, hub, files); ok {
		contenders = append(contenders, c)
	}
	if list := b.aria2(ctx, hub, files); len(list) > 0 {
		contenders = append(contenders, list[0])
	}
	if c, ok := b.hubClient(ctx, hub); ok {
		contenders = append(contenders, c)
	}
	results, err := b.run(ctx, race{
		contenders: contenders, files: files, server: server, rounds: b.linkRounds,
		start: func(cmd *exec.Cmd) error { return l.Client.Start(cmd) }, before: l.Reset,
	})
	s := l.Stats()
	b.say("packets: %d delivered, %d lost, %d dropped by the full queue, %d by this machine", s.Delivered, s.Lost, s.Dropped, s.Overrun)
	if err == nil && s.Overrun > s.Delivered/1000 {
		err = fmt.Errorf("this machine is too busy to be a link: it dropped %d packets of %d", s.Overrun, s.Delivered)
	}
	return results, err
}

func describe(s link.Shape) string {
	return fmt.Sprintf("%d Mbit/s, %d ms, %.3g%% lost", s.Rate/mbit, s.RTT.Milliseconds(), s.Loss*100)
}

// share of the link's rate: the time that the bytes take on it, to the time that
// they took.
func share(r *result, ideal float64) string {
	s := measure.SpreadOf(r.values(func(c *cost) float64 { return 100 * ideal / wall(c) }))
	return fmt.Sprintf("%.0f%% (%.0f-%.0f)", s.Median, s.Low, s.High)
}
