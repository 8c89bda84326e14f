package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/printable"
)

// progress shows how far a pull is, on standard error. update is called by one
// goroutine at a time, finish after the last update.
type progress interface {
	update(fetcher.Progress)
	finish(ok bool)
}

func (c *cli) newProgress(mode string) (progress, error) {
	if mode == "auto" {
		mode = "plain"
		if c.terminal {
			mode = "bar"
		}
	}
	switch mode {
	case "bar":
		return &barProgress{w: c.steering}, nil
	case "plain":
		return &plainProgress{w: c.stderr, rate: newRate()}, nil
	case "json":
		return &jsonProgress{enc: json.NewEncoder(c.stderr)}, nil
	case "none":
		return noProgress{}, nil
	default:
		return nil, fmt.Errorf("--progress %q is unknown; use auto, bar, plain, json or none", mode)
	}
}

type noProgress struct{}

func (noProgress) update(fetcher.Progress) {}
func (noProgress) finish(bool)             {}

// jsonProgress writes one object a line, for programs.
type jsonProgress struct {
	enc  *json.Encoder
	last fetcher.Progress
}

type progressLine struct {
	Phase      string `json:"phase"`
	Revision   string `json:"revision,omitempty"`
	Bytes      int64  `json:"bytes"`
	TotalBytes int64  `json:"totalBytes"`
	Files      int    `json:"files"`
	TotalFiles int    `json:"totalFiles"`
}

func (j *jsonProgress) update(p fetcher.Progress) {
	j.last = p
	// A reader that went away does not end the pull.
	_ = j.enc.Encode(progressLine{
		Phase: p.Phase, Revision: p.Revision, Bytes: p.BytesDone, TotalBytes: p.BytesTotal,
		Files: p.FilesDone, TotalFiles: p.FilesTotal,
	})
}

func (j *jsonProgress) finish(ok bool) {
	if ok {
		j.last.Phase = "published"
		j.update(j.last)
	}
}

// barProgress draws a bar on a terminal.
type barProgress struct {
	w     io.Writer
	bar   *progressbar.ProgressBar
	phase string
}

func (b *barProgress) update(p fetcher.Progress) {
	if p.BytesTotal == 0 {
		if p.Phase != b.phase && p.Phase != fetcher.PhasePublishing {
			fmt.Fprintf(b.w, "%s\n", printable.Line(phaseText(p.Phase)))
		}
		b.phase = p.Phase
		return
	}
	if b.bar == nil {
		b.bar = progressbar.NewOptions64(p.BytesTotal,
			progressbar.OptionSetWriter(b.w),
			progressbar.OptionShowBytes(true),
			progressbar.OptionShowCount(),
			progressbar.OptionUseIECUnits(true),
			progressbar.OptionShowTotalBytes(true),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionFullWidth(),
		)
	}
	if b.bar.GetMax64() != p.BytesTotal { // first another pull's, then our own
		b.bar.ChangeMax64(p.BytesTotal)
	}
	b.phase = p.Phase
	what := p.Phase
	if p.FilesTotal > 0 {
		what = fmt.Sprintf("%-10s %d/%d files", p.Phase, p.FilesDone, p.FilesTotal)
	}
	b.bar.Describe(printable.Line(what))
	_ = b.bar.Set64(p.BytesDone) // drawing is best effort
}

func (b *barProgress) finish(ok bool) {
	if b.bar == nil {
		return
	}
	if ok {
		_ = b.bar.Finish() // drawing is best effort
	}
	fmt.Fprintln(b.w)
}

// plainProgress writes a line at each change of phase and every few seconds,
// for logs.
type plainProgress struct {
	w     io.Writer
	phase string
	next  time.Time
	rate  *rateMeter
	last  fetcher.Progress
}

const plainEvery = 5 * time.Second

func (l *plainProgress) update(p fetcher.Progress) {
	now := time.Now()
	l.rate.add(now, p.BytesDone, p.Phase)
	l.last = p
	if p.Phase == l.phase && now.Before(l.next) {
		return
	}
	l.phase, l.next = p.Phase, now.Add(plainEvery)
	if p.BytesTotal == 0 {
		fmt.Fprintf(l.w, "%s\n", phaseText(p.Phase))
		return
	}
	fmt.Fprintln(l.w, progressText(phaseText(p.Phase), p.BytesDone, p.BytesTotal, l.rate.perSecond()))
}

func (l *plainProgress) finish(ok bool) {
	if ok {
		fmt.Fprintf(l.w, "published %s in %d files, revision %s\n", humanBytes(l.last.BytesTotal), l.last.FilesTotal, l.last.Revision)
	}
}

func phaseText(phase string) string {
	switch phase {
	case fetcher.PhaseListing:
		return "listing the source's files"
	case fetcher.PhaseWaiting:
		return "waiting for another pull of this model"
	case fetcher.PhaseVerifying:
		return "checking what is in the store"
	default:
		return phase
	}
}

// progressText is one line: what, how far, how fast, how long.
func progressText(what string, done, total int64, perSecond float64) string {
	percent := 100.0
	if total > 0 {
		percent = 100 * float64(done) / float64(total)
	}
	line := fmt.Sprintf("%s: %3.0f%%, %s of %s", what, percent, humanBytes(done), humanBytes(total))
	if perSecond >= 1 && done < total {
		left := time.Duration(float64(total-done) / perSecond * float64(time.Second)).Round(time.Second)
		line += fmt.Sprintf(", %s/s, %s left", humanBytes(int64(perSecond)), left)
	}
	return line
}

// rateMeter measures the rate since a phase began.
type rateMeter struct {
	phase       string
	from, now   time.Time
	first, last int64
}

func newRate() *rateMeter { return &rateMeter{} }

func (r *rateMeter) add(now time.Time, bytes int64, phase string) {
	if phase != r.phase {
		r.phase, r.from, r.first = phase, now, bytes
	}
	r.now, r.last = now, bytes
}

func (r *rateMeter) perSecond() float64 {
	elapsed := r.now.Sub(r.from).Seconds()
	if elapsed < 0.1 {
		return 0
	}
	return float64(r.last-r.first) / elapsed
}
