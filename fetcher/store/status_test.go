package store_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

func TestStatus(t *testing.T) {
	s := newStore(t)
	if _, err := s.ReadStatus("tiny"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	want := store.Status{Name: "tiny", State: "pulling", Bytes: 1, Total: 2, Rate: 3, Reason: "r", Hint: "h", Code: store.CodeRefused, Time: time.Now().UTC()}
	must(t, s.WriteStatus(want))
	ro, err := store.OpenReadOnly(s.Dir())
	must(t, err)
	if got, err := ro.ReadStatus("tiny"); err != nil || got != want {
		t.Errorf("read %+v, %v", got, err)
	}
	must(t, s.RemoveStatus("tiny"))
	must(t, s.RemoveStatus("tiny"))
	if _, err := s.ReadStatus("tiny"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after: %v", err)
	}
	writeFile(t, filepath.Join(s.Dir(), "status/tiny.json"), "{")
	if _, err := s.ReadStatus("tiny"); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("damaged: %v", err)
	}
	for _, name := range []string{"", "..", "../x", "a/b", ".x"} {
		if err := s.WriteStatus(store.Status{Name: name}); err == nil {
			t.Errorf("wrote the status of %q", name)
		}
		if _, err := s.ReadStatus(name); err == nil {
			t.Errorf("read the status of %q", name)
		}
		if err := s.RemoveStatus(name); err == nil {
			t.Errorf("removed the status of %q", name)
		}
	}
}

// A model may be called agent; its status has no place, and the heartbeat keeps
// its own.
func TestStatusOfAModelCalledAgent(t *testing.T) {
	s := newStore(t)
	if _, err := s.ReadHeartbeat(); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	want := store.Heartbeat{Node: "n", Version: "v", Time: time.Now().UTC()}
	must(t, s.WriteHeartbeat(want))
	publish(t, s, "agent", repo, commitA, tiny)
	must(t, s.WriteStatus(store.Status{Name: "agent", State: "pulling"}))
	must(t, s.RemoveStatus("agent"))
	if st, err := s.ReadStatus("agent"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("read %+v, %v", st, err)
	}
	must(t, s.Remove(t.Context(), "agent"))
	if got, err := s.ReadHeartbeat(); err != nil || got != want {
		t.Errorf("heartbeat %+v, %v", got, err)
	}
}
