package agent

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"
)

// What could not be written is tried again: it is put only when it changes, and what
// the store has forgotten a restart does not know.
func TestScribeTriesAgain(t *testing.T) {
	var wg sync.WaitGroup
	var wrote []string
	broken := true
	s := newScribe(&wg, slog.New(slog.DiscardHandler))
	put := func(file, content string) {
		s.put(file, func() error {
			if broken {
				return errors.New("no space")
			}
			wrote = append(wrote, file+" "+content)
			return nil
		})
		wg.Wait()
	}
	now := time.Unix(1000, 0)
	retry := func(d time.Duration) {
		now = now.Add(d)
		s.retry(now, time.Second)
		wg.Wait()
	}
	want := func(what string, files ...string) {
		t.Helper()
		if slices.Sort(wrote); !slices.Equal(wrote, files) {
			t.Errorf("%s: wrote %q, want %q", what, wrote, files)
		}
		wrote = nil
	}

	put("memory", "1")
	put("status", "1")
	retry(0) // it fails once more
	broken = false
	retry(500 * time.Millisecond)
	want("at once")
	retry(time.Second)
	want("after a while", "memory 1", "status 1")
	retry(time.Second)
	want("once is enough")

	broken = true
	put("memory", "2")
	broken = false
	put("memory", "3")
	retry(time.Second)
	want("only the latest", "memory 3")

	broken = true
	put("memory", "4")
	s.forget()
	broken = false
	retry(time.Second)
	want("what another agent writes now")
}

// A write that was under way when everything was forgotten is not tried again.
func TestScribeForgetsWhatIsUnderWay(t *testing.T) {
	var wg sync.WaitGroup
	s := newScribe(&wg, slog.New(slog.DiscardHandler))
	times, began, end := 0, make(chan struct{}, 2), make(chan struct{})
	s.put("memory", func() error {
		times++
		began <- struct{}{}
		<-end
		return errors.New("another agent writes")
	})
	<-began
	s.forget()
	close(end)
	wg.Wait()
	s.retry(time.Unix(1000, 0), time.Second)
	wg.Wait()
	if times != 1 {
		t.Errorf("it was tried %d times", times)
	}
}
