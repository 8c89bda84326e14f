package fetcher

import (
	"testing"
	"testing/synctest"
)

// A checkpoint that ends after the last content is in the store holds nobody
// up.
func TestEventsAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dispatcher{p: &pull{}, events: make(chan func()), ended: make(chan struct{}), pace: newPace(1)}
		if err := d.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		late := func() { t.Error("an event happened after the end") }
		if err := d.tell(t.Context(), late); err != nil { // or synctest finds that it waits for ever
			t.Error(err)
		}
	})
}
