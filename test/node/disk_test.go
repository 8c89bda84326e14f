//go:build e2e && linux

package node_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/store"
)

// fillsTheDisk has another process take the last byte of the disk that holds the store: the agent says that there is no
// room for a new model, takes no label from what is there, and pulls as soon as there is room again.
func (l *life) fillsTheDisk(t *testing.T) {
	finish := l.watchLabels(t)
	ballast := filepath.Join(l.second.disk, "ballast")
	if err := fill(ballast); err != nil {
		t.Fatal(err)
	}
	three := l.model("team/three", 4, 32<<20)
	l.list.models = append(l.list.models, "{name: three, source: 'hf://team/three', nodeSelector: {pool: small}}")
	l.install(t, l.list)
	said := l.second.waitModel(t, "three", "to find no room", func(m agent.ModelStatus) bool { return m.Code == store.CodeNoRoom })
	t.Logf("it says: %s; %s", said.Reason, said.Hint)
	if said.Reason == "" || said.Hint == "" {
		t.Errorf("it does not say why, or not what to do: %+v", said)
	}
	l.second.waitLabel(t, "warm.stoker.dev/three", "")
	// What was there is still read, by new pods too.
	l.serve(t, "serving", "full", "one", map[string]string{"pool": "small"})
	_, s := l.seenBy(t, "serving", "full")
	checkSeen(t, s, l.one)
	l.serve(t, "serving", "three", "three", map[string]string{"pool": "small"})

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	l.second.waitLabel(t, "warm.stoker.dev/three", "disk")
	_, s = l.seenBy(t, "serving", "three")
	checkSeen(t, s, three)
	finish()
}

// fill writes a file until not a byte more fits.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for size := len(block); err == nil && size > 0; {
		if _, err = file.Write(block[:size]); errors.Is(err, syscall.ENOSPC) {
			err, size = nil, size/2
		}
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("fill the disk: %w", err)
	}
	return nil
}
