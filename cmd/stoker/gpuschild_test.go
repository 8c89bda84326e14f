package main

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/gpu"
)

// stoker reads GPUs through a process of its own, and sees what a process that
// reads them itself sees, an error included.
func TestGPUsInAChild(t *testing.T) {
	type seen struct{ UUIDs, Error string }
	read := func(open func(string) (*gpu.Reader, error)) seen {
		t.Helper()
		r, err := open("auto")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}()
		var out seen
		devices, err := r.Devices(t.Context())
		for _, d := range devices {
			out.UUIDs += d.UUID + " "
		}
		if err != nil {
			out.Error = err.Error()
			if !errors.Is(err, gpu.ErrNoDriver) {
				t.Logf("GPUs cannot be read here: %v", err)
			}
		}
		return out
	}
	itself, child := read(gpu.Open), read(openGPUs)
	if diff := cmp.Diff(itself, child); diff != "" {
		t.Errorf("(-this process +child):\n%s", diff)
	}
	if itself == (seen{}) {
		t.Log("there is a driver and no GPU")
	}
	if _, err := openGPUs("simulated:nosuch"); err == nil {
		t.Error("a bad spec is no error")
	}
}
