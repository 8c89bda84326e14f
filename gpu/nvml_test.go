package gpu

import (
	"errors"
	"path/filepath"
	"testing"
)

// TestAuto reads the machine that the test runs on, with cgo and without.
func TestAuto(t *testing.T) {
	r, err := Open("auto")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	list, err := r.Devices(t.Context())
	drivers, globErr := filepath.Glob("/dev/nvidia[0-9]*")
	if globErr != nil {
		t.Fatal(globErr)
	}
	if len(drivers) == 0 {
		if !errors.Is(err, ErrNoDriver) {
			t.Errorf("Devices() = %v, %v; want ErrNoDriver on a machine without a GPU", list, err)
		}
		return
	}
	if errors.Is(err, ErrNoDriver) {
		t.Skipf("SKIPPED: %v here, but this test cannot open NVML: %v", drivers, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if d.UUID == "" || d.UsedBytes+d.FreeBytes+d.ReservedBytes != d.TotalBytes || d.State == StateOK && d.TotalBytes == 0 {
			t.Errorf("%+v", d)
		}
	}
}
