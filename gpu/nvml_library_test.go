//go:build cgo && linux

package gpu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"
)

// nvmlHeader is the folder of NVIDIA's nvml.h.
var nvmlHeader = sync.OnceValues(func() (string, error) {
	dir, err := exec.CommandContext(context.Background(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml").Output()
	return filepath.Join(strings.TrimSpace(string(dir)), "pkg", "nvml"), err
})

// compileLibrary builds testdata/libnvml.c against nvml.h, or skips the test aloud.
func compileLibrary(t *testing.T, path string, flags ...string) {
	t.Helper()
	compiler := "cc"
	if cc := os.Getenv("CC"); cc != "" {
		compiler = cc
	}
	header, err := nvmlHeader()
	if err != nil {
		t.Fatal(err)
	}
	args := append(strings.Fields(compiler), "-shared", "-fPIC", "-Wall", "-Werror", "-I", header, "-o", path, filepath.Join("testdata", "libnvml.c"))
	args = append(args, flags...)
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			t.Skipf("SKIPPED: no C compiler (%s), so no library to load", compiler)
		}
		t.Fatalf("compile: %v\n%s", err, out)
	}
}

// TestRealLibrary opens a real shared library in NVML's place, so that loading,
// lazy binding, functions that an old driver lacks, and a call that hangs in C
// are tested for what they are. It is one test because what the process has
// bound to once stays.
func TestRealLibrary(t *testing.T) {
	dir := t.TempDir()
	library := filepath.Join(dir, "libnvml-test.so")
	compileLibrary(t, library)
	t.Setenv("NVML_TEST_DIR", dir)
	initReturns := func(code nvml.Return) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "init"), []byte(strconv.Itoa(int(code))), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	r := newReader(&nvmlBackend{api: nvml.New(nvml.WithLibraryPath(library))})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})

	for code, want := range map[nvml.Return]error{
		nvml.ERROR_DRIVER_NOT_LOADED:       ErrNoDriver,
		nvml.ERROR_LIB_RM_VERSION_MISMATCH: ErrVersionMismatch,
		nvml.ERROR_NO_PERMISSION:           ErrNoPermission,
	} {
		initReturns(code)
		if list, err := r.Devices(t.Context()); !errors.Is(err, want) {
			t.Errorf("nvmlInit returns %d: %v, %v; want %v", code, list, err, want)
		}
	}
	initReturns(nvml.ERROR_OPERATING_SYSTEM)
	if _, err := r.Devices(t.Context()); err == nil || !strings.Contains(err.Error(), "what the driver says (NVML error 17)") {
		t.Errorf("an error that is the driver's own: %v", err)
	}

	// The driver recovers, and the process survives what its library lacks.
	initReturns(nvml.SUCCESS)
	want := []Device{{
		UUID: "GPU-old", Name: "Old GPU", ComputeCapability: "7.5", State: StateOK,
		TotalBytes: 16 << 30, UsableBytes: 16 << 30, FreeBytes: 12 << 30, UsedBytes: 4 << 30,
		ProcessesReason: "list processes: not supported by this GPU or driver",
	}}
	got, err := r.Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// A call that hangs in C is given up, told at once from then on, and
	// forgotten when it returns.
	hang := filepath.Join(dir, "hang")
	if err := os.WriteFile(hang, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Devices(ctx); !errors.Is(err, ErrTimeout) {
		t.Errorf("hanging call: %v; want ErrTimeout", err)
	}
	if _, err := r.Devices(t.Context()); !errors.Is(err, ErrTimeout) {
		t.Errorf("call behind a hanging one: %v; want ErrTimeout", err)
	}
	if err := os.Remove(hang); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		got, err = r.Devices(t.Context())
		if err == nil {
			break
		}
		if !errors.Is(err, ErrTimeout) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after the hanging call (-want +got):\n%s", diff)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	// ErrVersionMismatch's comment rests on this: closing does not unload, so
	// only a new process loads the library of a new driver.
	if !strings.Contains(string(maps), library) {
		t.Error("the library was unloaded; ErrVersionMismatch promises less than it could")
	}
}
