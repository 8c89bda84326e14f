//go:build cgo && linux

package gpu

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/google/go-cmp/cmp"
)

func oneDevice(t *testing.T, b *nvmlBackend) Device {
	t.Helper()
	list, err := newReader(b).Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 {
		t.Fatalf("%d devices; want one", len(list))
	}
	return list[0]
}

func TestProcesses(t *testing.T) {
	// A PID that no process has, so that nothing is read from /proc.
	const far = 1 << 22
	gpu := healthy("GPU-0")
	gpu.GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) {
		return []nvml.ProcessInfo{
			{Pid: far + 3, UsedGpuMemory: 3 << 30}, {Pid: far + 1, UsedGpuMemory: math.MaxUint64}, {Pid: far + 2, UsedGpuMemory: 2 << 30},
		}, nvml.SUCCESS
	}
	gpu.GetMPSComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) {
		return []nvml.ProcessInfo{{Pid: far + 2, UsedGpuMemory: 2 << 30}, {Pid: far + 9, UsedGpuMemory: 0}}, nvml.SUCCESS
	}
	want := []Process{
		{PID: far + 1},
		{PID: far + 2, UsedBytes: 2 << 30, UsedKnown: true, MPS: true},
		{PID: far + 3, UsedBytes: 3 << 30, UsedKnown: true},
		{PID: far + 9, UsedKnown: true, MPS: true},
	}
	d := oneDevice(t, &nvmlBackend{api: machine(gpu), allProcesses: true})
	if diff := cmp.Diff(want, d.Processes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !d.MPS || d.ProcessesPartial || d.ProcessesReason != "" {
		t.Errorf("%+v: want MPS, and nothing missing", d)
	}

	// In a PID namespace of one's own the same list may be a part.
	d = oneDevice(t, &nvmlBackend{api: machine(gpu)})
	if diff := cmp.Diff(want, d.Processes); diff != "" {
		t.Errorf("in a namespace (-want +got):\n%s", diff)
	}
	if !d.ProcessesPartial || d.ProcessesReason == "" {
		t.Errorf("in a namespace: %+v: want a partial list, and why", d)
	}

	// What the driver keeps to itself is unknown, not none; the rest stands.
	for _, ret := range []nvml.Return{nvml.ERROR_NO_PERMISSION, nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_UNKNOWN} {
		gpu.GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, ret }
		d = oneDevice(t, &nvmlBackend{api: machine(gpu), allProcesses: true})
		if d.Processes != nil || d.ProcessesReason == "" || d.State != StateOK || d.FreeBytes == 0 || !d.Usable() {
			t.Errorf("NVML error %d: %+v; want unknown processes on a device that is ok", ret, d)
		}
	}
}

func TestHiddenProcessesAreNotOne(t *testing.T) {
	gpu := healthy("GPU-0")
	hidden := func() ([]nvml.ProcessInfo, nvml.Return) { return []nvml.ProcessInfo{{UsedGpuMemory: 1}}, nvml.SUCCESS }
	gpu.GetComputeRunningProcessesFunc, gpu.GetMPSComputeRunningProcessesFunc = hidden, hidden
	d := oneDevice(t, &nvmlBackend{api: machine(gpu)})
	if diff := cmp.Diff([]Process{{UsedBytes: 1, UsedKnown: true}, {UsedBytes: 1, UsedKnown: true, MPS: true}}, d.Processes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestComputeModes(t *testing.T) {
	for mode, want := range map[nvml.ComputeMode]ComputeMode{
		nvml.COMPUTEMODE_DEFAULT: ComputeDefault, nvml.COMPUTEMODE_EXCLUSIVE_PROCESS: ComputeExclusive,
		nvml.COMPUTEMODE_EXCLUSIVE_THREAD: ComputeExclusiveThread, nvml.COMPUTEMODE_PROHIBITED: ComputeProhibited, 99: "",
	} {
		gpu := healthy("GPU-0")
		gpu.GetComputeModeFunc = func() (nvml.ComputeMode, nvml.Return) { return mode, nvml.SUCCESS }
		d := oneDevice(t, &nvmlBackend{api: machine(gpu), allProcesses: true})
		if d.ComputeMode != want || d.Usable() != (want != ComputeProhibited) {
			t.Errorf("mode %d: %q, usable %t", mode, d.ComputeMode, d.Usable())
		}
	}
}

func TestMemoryErrors(t *testing.T) {
	unsupported := func() (nvml.EnableState, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	pending := func() (nvml.EnableState, nvml.Return) { return nvml.FEATURE_ENABLED, nvml.SUCCESS }
	rows := func(pending, failed bool, ret nvml.Return) func() (int, int, bool, bool, nvml.Return) {
		return func() (int, int, bool, bool, nvml.Return) { return 1, 2, pending, failed, ret }
	}
	tests := map[string]struct {
		errors    uint64
		errorsRet nvml.Return
		rows      func() (int, int, bool, bool, nvml.Return)
		pages     func() (nvml.EnableState, nvml.Return)
		want      *ECC
		usable    bool
	}{
		"without ECC": {0, nvml.ERROR_NOT_SUPPORTED, rows(true, true, nvml.ERROR_NOT_SUPPORTED), unsupported, nil, true},
		"rows wait": {
			3, nvml.SUCCESS, rows(true, false, nvml.SUCCESS), unsupported,
			&ECC{UncorrectedErrors: 3, UncorrectedKnown: true, RepairPending: true, RepairKnown: true}, false,
		},
		"pages wait, on an older GPU": {
			3, nvml.SUCCESS, rows(false, false, nvml.ERROR_NOT_SUPPORTED), pending,
			&ECC{UncorrectedErrors: 3, UncorrectedKnown: true, RepairPending: true, RepairKnown: true}, false,
		},
		"rows win over pages": {
			0, nvml.SUCCESS, rows(false, true, nvml.SUCCESS), pending,
			&ECC{UncorrectedKnown: true, RepairFailed: true, RepairKnown: true}, true,
		},
		"only the count is told": {1, nvml.SUCCESS, rows(true, true, nvml.ERROR_UNKNOWN), unsupported, &ECC{UncorrectedErrors: 1, UncorrectedKnown: true}, true},
	}
	for name, test := range tests {
		gpu := healthy("GPU-0")
		gpu.GetTotalEccErrorsFunc = func(kind nvml.MemoryErrorType, counter nvml.EccCounterType) (uint64, nvml.Return) {
			if kind != nvml.MEMORY_ERROR_TYPE_UNCORRECTED || counter != nvml.VOLATILE_ECC {
				t.Errorf("%s: asked for errors %d of counter %d", name, kind, counter)
			}
			return test.errors, test.errorsRet
		}
		gpu.GetRemappedRowsFunc, gpu.GetRetiredPagesPendingStatusFunc = test.rows, test.pages
		d := oneDevice(t, &nvmlBackend{api: machine(gpu), allProcesses: true})
		if diff := cmp.Diff(test.want, d.ECC); diff != "" || d.Usable() != test.usable || d.State != StateOK {
			t.Errorf("%s: state %s, usable %t, ECC (-want +got):\n%s", name, d.State, d.Usable(), diff)
		}
	}
}

func TestRecovery(t *testing.T) {
	answers := func(kind nvml.ValueType, value uint32, ret, own nvml.Return) *mock.Device {
		gpu := healthy("GPU-0")
		gpu.GetFieldValuesFunc = func(fields []nvml.FieldValue) nvml.Return {
			if len(fields) != 1 || fields[0].FieldId != nvml.FI_DEV_GET_GPU_RECOVERY_ACTION {
				t.Errorf("asked for %+v", fields)
			}
			fields[0].ValueType, fields[0].NvmlReturn = uint32(kind), uint32(own)
			binary.NativeEndian.PutUint32(fields[0].Value[:], value)
			return ret
		}
		return gpu
	}
	for value, want := range []Recovery{
		RecoveryNone, RecoveryReset, RecoveryReboot, RecoveryDrainPeers, RecoveryDrainAndReset, RecoveryIMEX, RecoveryBusReset, RecoveryReboot, "action-8",
	} {
		d := oneDevice(t, &nvmlBackend{api: machine(answers(nvml.VALUE_TYPE_UNSIGNED_INT, uint32(value), nvml.SUCCESS, nvml.SUCCESS))})
		if d.Recovery != want {
			t.Errorf("action %d is %q; want %q", value, d.Recovery, want)
		}
	}
	for name, gpu := range map[string]*mock.Device{
		"not supported":   answers(nvml.VALUE_TYPE_UNSIGNED_INT, 1, nvml.ERROR_NOT_SUPPORTED, nvml.SUCCESS),
		"field unknown":   answers(nvml.VALUE_TYPE_UNSIGNED_INT, 1, nvml.SUCCESS, nvml.ERROR_NOT_SUPPORTED),
		"of another type": answers(nvml.VALUE_TYPE_DOUBLE, 1, nvml.SUCCESS, nvml.SUCCESS),
	} {
		if d := oneDevice(t, &nvmlBackend{api: machine(gpu)}); d.Recovery != "" || !d.Usable() {
			t.Errorf("%s: recovery %q; want none known", name, d.Recovery)
		}
	}
}

// Errors that concern more than the question they answer.
func TestGraveErrorsWhereverTheyCome(t *testing.T) {
	calls := map[string]func(*mock.Device, nvml.Return){
		"compute mode": func(d *mock.Device, ret nvml.Return) {
			d.GetComputeModeFunc = func() (nvml.ComputeMode, nvml.Return) { return 0, ret }
		},
		"processes": func(d *mock.Device, ret nvml.Return) {
			d.GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, ret }
		},
		"MPS processes": func(d *mock.Device, ret nvml.Return) {
			d.GetMPSComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, ret }
		},
		"errors": func(d *mock.Device, ret nvml.Return) {
			d.GetTotalEccErrorsFunc = func(nvml.MemoryErrorType, nvml.EccCounterType) (uint64, nvml.Return) { return 0, ret }
		},
		"rows": func(d *mock.Device, ret nvml.Return) {
			d.GetRemappedRowsFunc = func() (int, int, bool, bool, nvml.Return) { return 0, 0, false, false, ret }
		},
		"pages": func(d *mock.Device, ret nvml.Return) {
			d.GetRetiredPagesPendingStatusFunc = func() (nvml.EnableState, nvml.Return) { return 0, ret }
		},
		"recovery": func(d *mock.Device, ret nvml.Return) {
			d.GetFieldValuesFunc = func([]nvml.FieldValue) nvml.Return { return ret }
		},
	}
	for name, breaks := range calls {
		for ret, want := range map[nvml.Return]State{nvml.ERROR_GPU_IS_LOST: StateLost, nvml.ERROR_RESET_REQUIRED: StateResetRequired} {
			gpu := healthy("GPU-0")
			breaks(gpu, ret)
			d := oneDevice(t, &nvmlBackend{api: machine(gpu), allProcesses: true})
			if d.State != want || d.Reason == "" || d.FreeBytes != 0 || d.UUID != "GPU-0" || d.Usable() {
				t.Errorf("%s, NVML error %d: %+v; want state %s without memory", name, ret, d, want)
			}
		}
		gpu := healthy("GPU-0")
		breaks(gpu, nvml.ERROR_LIB_RM_VERSION_MISMATCH)
		if _, err := newReader(&nvmlBackend{api: machine(gpu)}).Devices(t.Context()); !errors.Is(err, ErrVersionMismatch) {
			t.Errorf("%s: %v; want ErrVersionMismatch", name, err)
		}
	}
}

func TestMPSServerIsKnownByItsName(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	server := t.TempDir() + "/nvidia-cuda-mps-server"
	if err := os.Symlink(sleep, server); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), server, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed: an error by design
	}()
	if !isMPSServer(uint32(cmd.Process.Pid)) {
		t.Error("the server of MPS is not known by its name")
	}
	if isMPSServer(uint32(os.Getpid())) || isMPSServer(0) {
		t.Error("this is no server of MPS")
	}
}

// TestUpgradeOfTheDriver is an upgrade as an agent lives through it: the kernel
// module changes first, then the library on disk. Each read is a process that
// loads what is there, with the layouts of the real structures.
func TestUpgradeOfTheDriver(t *testing.T) {
	dir := t.TempDir()
	library := dir + "/libnvidia-ml.so.1"
	module := func(version string) {
		t.Helper()
		if err := os.WriteFile(dir+"/module", []byte(version), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	compileLibrary(t, library, "-DVERSION=1")
	module("1")
	r := childReader(t, childCommand(t, "answer", "LD_LIBRARY_PATH="+dir, "NVML_TEST_DIR="+dir))
	list, err := r.Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].UUID != "GPU-old" || list[0].Processes != nil || list[0].ComputeMode != "" {
		t.Fatalf("before the upgrade: %+v", list)
	}

	module("2")
	if list, err := r.Devices(t.Context()); !errors.Is(err, ErrVersionMismatch) || !strings.Contains(err.Error(), "NVML error 18") {
		t.Fatalf("between module and library: %+v, %v; want ErrVersionMismatch", list, err)
	}

	compileLibrary(t, dir+"/new", "-DVERSION=2", "-DMODERN")
	if err := os.Rename(dir+"/new", library); err != nil {
		t.Fatal(err)
	}
	list, err = r.Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Device{
		UUID: "GPU-old", Name: "Old GPU", ComputeCapability: "7.5", State: StateOK,
		TotalBytes: 16 << 30, UsableBytes: 31 << 29, FreeBytes: 12 << 30, UsedBytes: 7 << 29, ReservedBytes: 1 << 29,
		ComputeMode: ComputeExclusive, MPS: true, Recovery: RecoveryDrainAndReset,
		ECC: &ECC{UncorrectedErrors: 5, UncorrectedKnown: true, RepairPending: true, RepairKnown: true},
		Processes: []Process{
			{PID: 100, UsedBytes: 1 << 30, UsedKnown: true}, {PID: 200}, {PID: 300, UsedBytes: 2 << 30, UsedKnown: true, MPS: true},
		},
	}
	want.Conditions = want.conditions()
	if !seesAllProcesses() {
		want.ProcessesPartial, want.ProcessesReason = true, list[0].ProcessesReason
	}
	if diff := cmp.Diff([]Device{want}, list); diff != "" {
		t.Errorf("after the upgrade (-want +got):\n%s", diff)
	}
}
