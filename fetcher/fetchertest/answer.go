package fetchertest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// answer is a response under way: it counts, paces and breaks the body.
type answer struct {
	http.ResponseWriter
	ctx     context.Context //nolint:containedctx // one request's, for as long as its answer
	pace    *pacer
	effect  Effect
	request *Request
	mirror  Mirror
	log     func() // once
}

// serve answers one request by handle, less what a fault does to it, and logs
// it.
func (h *Hub) serve(w http.ResponseWriter, r *http.Request, logged Request, handle func(*answer)) {
	logged.ID = fmt.Sprintf("Root=1-%08x", h.serial.Add(1))
	logged.Method, logged.Path = r.Method, r.URL.EscapedPath()
	logged.Range, logged.UserAgent = r.Header.Get("Range"), r.UserAgent()
	logged.Authorized = r.Header.Get("Authorization") != ""
	a := &answer{ResponseWriter: w, ctx: r.Context(), pace: &h.pace, effect: h.faultFor(&logged), request: &logged, mirror: h.options.Mirror}
	a.log = sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.log = append(h.log, logged)
	})
	defer a.log() // also when a fault cuts the connection
	w.Header().Set("X-Request-Id", logged.ID)
	switch {
	case a.effect.status != 0:
		for k, v := range a.effect.header {
			w.Header()[k] = v
		}
		a.WriteHeader(a.effect.status)
		_, _ = io.WriteString(a, a.effect.body)
		return
	case a.effect.cutAfter == 0:
		panic(http.ErrAbortHandler)
	}
	handle(a)
}

// file sends a file, or the range of it that was asked for. compress sends it
// gzipped and chunked, ranges ignored, to those who accept that, as the Hub
// does with small text, and mirrors to others, too.
func (a *answer) file(r *http.Request, e entry, compress bool) {
	a.Header().Set("Content-Type", "application/octet-stream")
	if a.effect.ignoreRange {
		r.Header.Del("Range")
	}
	content := io.ReaderAt(e.content)
	if a.effect.wrongByte >= 0 {
		content = &flipped{content, a.effect.wrongByte}
	}
	reader := io.NewSectionReader(content, 0, e.Size)
	accepted := strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") || e.Size < a.mirror.GzipBelow
	if compress && r.Method == http.MethodGet && accepted {
		a.unasked(func(w io.Writer) { _, _ = io.Copy(w, reader) })
		return
	}
	http.ServeContent(a, r, "", time.Time{}, reader)
}

// WriteHeader keeps the status for the log.
func (a *answer) WriteHeader(status int) {
	if a.request.Status == 0 {
		a.request.Status = status
	}
	if a.mirror.NoContentRange {
		a.Header().Del("Content-Range")
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write sends p at the Hub's rate, and no further than the fault allows.
func (a *answer) Write(p []byte) (int, error) {
	if a.request.Status == 0 {
		a.request.Status = http.StatusOK
	}
	done := 0
	for done < len(p) {
		n := min(piece, len(p)-done)
		stop := a.effect.cutAfter
		if stop < 0 {
			stop = a.effect.stallAfter
		}
		if stop >= 0 {
			n = int(min(int64(n), stop-a.request.Bytes))
		}
		if n == 0 {
			return done, a.interrupt()
		}
		if err := a.pace.wait(a.ctx, n); err != nil {
			return done, err
		}
		a.request.Bytes += int64(n)
		if strconv.FormatInt(a.request.Bytes, 10) == a.Header().Get("Content-Length") {
			a.log() // whoever has the whole answer finds it in the log
		}
		k, err := a.ResponseWriter.Write(p[done : done+n])
		done += k
		a.request.Bytes -= int64(n - k)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// interrupt does what the fault says in the middle of a body.
func (a *answer) interrupt() error {
	_ = http.NewResponseController(a.ResponseWriter).Flush() // what was sent must arrive
	if a.effect.cutAfter >= 0 {
		panic(http.ErrAbortHandler)
	}
	<-a.ctx.Done()
	return a.ctx.Err()
}

// flipped is content with one byte inverted.
type flipped struct {
	io.ReaderAt
	at int64
}

// ReadAt implements io.ReaderAt.
func (f *flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if i := f.at - off; i >= 0 && i < int64(n) {
		p[i] ^= 0xff
	}
	return n, err
}
