package elect

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// A process that was paused runs on before any of its timers does: it is Leading
// that tells that its time is over.
func TestLeadingIsJudgedWithoutATimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{Identity: "a", Duration: 30 * time.Second, Changed: func() {}, Logger: slog.New(slog.DiscardHandler)})
		e.leading, e.end = context.WithCancelCause(t.Context())
		e.until = time.Now().Add(20 * time.Second) // nothing watches it
		leading := e.leading
		time.Sleep(20*time.Second - time.Nanosecond)
		if _, ok := e.Leading(); !ok || leading.Err() != nil {
			t.Error("it ends too early")
		}
		time.Sleep(time.Nanosecond)
		if _, ok := e.Leading(); ok || leading.Err() == nil {
			t.Error("it leads on when its time is over")
		}
	})
}
