package store

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// What waits says for what after a second, once, and nothing when it is quicker.
func TestOnWait(t *testing.T) {
	dir := t.TempDir()
	open := func() *Store {
		s, err := Open(dir)
		mustDo(t, err)
		return s
	}
	for name, tc := range map[string]struct {
		held time.Duration
		want []string
	}{
		"long":  {5 * time.Second, []string{"a pull of m to end"}},
		"short": {900 * time.Millisecond, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				holder, waiter := open(), open()
				lock, err := holder.LockModel(t.Context(), "m", nil)
				mustDo(t, err)
				var told []string
				waiter.OnWait(func(what string) { told = append(told, what) })
				done := make(chan error)
				go func() {
					got, err := waiter.LockModel(t.Context(), "m", nil)
					if err == nil {
						err = got.Unlock()
					}
					done <- err
				}()
				time.Sleep(tc.held)
				mustDo(t, lock.Unlock())
				mustDo(t, <-done)
				if !slices.Equal(told, tc.want) {
					t.Errorf("it told %q, want %q", told, tc.want)
				}
			})
		})
	}
}
