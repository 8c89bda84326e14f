package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A store that cannot be written any more keeps its labels, because what they
// say stays true, and everybody can see why nothing new comes.
func TestLoopOnReadOnlyStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(5 * time.Second)
		told := func(readOnly bool) {
			t.Helper()
			after(10 * time.Second)
			if b.cluster.label(WarmPrefix+"a") != "disk" {
				t.Error("the label is gone")
			}
			b.cluster.mu.Lock()
			status := b.cluster.view.Status
			b.cluster.mu.Unlock()
			if strings.Contains(status, `"readOnly":true`) != readOnly || strings.Contains(status, storeReadOnly) != readOnly {
				t.Errorf("the annotation is %s", status)
			}
			want := "stoker_store_readonly 0"
			if readOnly {
				want = "stoker_store_readonly 1"
			}
			if !strings.Contains(page(t, b.agent), want) {
				t.Errorf("the page lacks %q", want)
			}
		}
		told(false)
		b.store.set(func() { b.store.readOnly = true })
		told(true)
		told(true)
		b.store.set(func() { b.store.readOnly = false })
		told(false)
		if n := b.cluster.told(EventStoreReadOnly); n != 1 {
			t.Errorf("%s was told %d times", EventStoreReadOnly, n)
		}
	})
}
