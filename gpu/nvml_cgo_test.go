//go:build cgo && linux

package gpu

import (
	"debug/elf"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxb200"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh200"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
	"github.com/google/go-cmp/cmp"
)

// The mocks have neither the second memory call nor MIG devices.
func oldDriver(s *server.Server) *server.Server {
	s.LookupSymbolFunc = func(string) error { return errors.New("not found") }
	return s
}

// TestBoardsAreThoseOfTheMocks reads go-nvml's mocks with the code that reads
// real GPUs, and compares with the tables.
func TestBoardsAreThoseOfTheMocks(t *testing.T) {
	mocks := map[string]*server.Server{
		"dgxa100": dgxa100.New(), "dgxb200": dgxb200.New(), "dgxh100": dgxh100.New(), "dgxh200": dgxh200.New(),
	}
	for name, m := range mocks {
		r := newReader(&nvmlBackend{api: oldDriver(m)})
		got, err := r.Devices(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := devicesOf(t, "simulated:"+name)
		for i := range got {
			// A mock's UUIDs are random, its free memory is 0, and one of
			// them says "Mock" in its name.
			got[i].UUID, got[i].UsedBytes = want[i].UUID, want[i].UsedBytes
			got[i].FreeBytes = want[i].FreeBytes
			// Nor does it have CUDA's total, and an H100 has 361 MiB less.
			got[i].UsableBytes = want[i].UsableBytes
			if name == "dgxh100" {
				got[i].TotalBytes = want[i].TotalBytes
			}
			got[i].Name = strings.TrimPrefix(got[i].Name, "Mock ")
			// Nor do they know who uses them.
			want[i].ComputeMode, want[i].Processes, got[i].ProcessesReason = "", nil, ""
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-table +mock):\n%s", name, diff)
		}
	}
}

// machine is a driver with the given devices and everything recent drivers have.
func machine(devices ...*mock.Device) *mock.Interface {
	m := &mock.Interface{
		InitFunc:           func() nvml.Return { return nvml.SUCCESS },
		ShutdownFunc:       func() nvml.Return { return nvml.SUCCESS },
		DeviceGetCountFunc: func() (int, nvml.Return) { return len(devices), nvml.SUCCESS },
		ExtensionsFunc: func() nvml.ExtendedInterface {
			return &mock.ExtendedInterface{LookupSymbolFunc: func(string) error { return nil }}
		},
	}
	m.DeviceGetHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) { return devices[i], nvml.SUCCESS }
	return m
}

// healthy is a GPU of 80 GiB with 1 GiB reserved and 9 GiB used.
func healthy(uuid string) *mock.Device {
	return &mock.Device{
		GetNameFunc:                  func() (string, nvml.Return) { return "NVIDIA X", nvml.SUCCESS },
		GetUUIDFunc:                  func() (string, nvml.Return) { return uuid, nvml.SUCCESS },
		GetCudaComputeCapabilityFunc: func() (int, int, nvml.Return) { return 8, 9, nvml.SUCCESS },
		GetMigModeFunc:               func() (int, int, nvml.Return) { return 0, 0, nvml.ERROR_NOT_SUPPORTED },
		GetMemoryInfoFunc: func() (nvml.Memory, nvml.Return) {
			return nvml.Memory{Total: 80 << 30, Free: 70 << 30, Used: 10 << 30}, nvml.SUCCESS
		},
		GetMemoryInfo_v2Func: func() (nvml.Memory_v2, nvml.Return) {
			return nvml.Memory_v2{Total: 80 << 30, Free: 70 << 30, Used: 9 << 30, Reserved: 1 << 30}, nvml.SUCCESS
		},
		GetNumaNodeIdFunc:                 func() (int, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED },
		GetGpuFabricInfoFunc:              func() (nvml.GpuFabricInfo, nvml.Return) { return nvml.GpuFabricInfo{}, nvml.ERROR_NOT_SUPPORTED },
		GetComputeModeFunc:                func() (nvml.ComputeMode, nvml.Return) { return nvml.COMPUTEMODE_DEFAULT, nvml.SUCCESS },
		GetComputeRunningProcessesFunc:    func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.SUCCESS },
		GetMPSComputeRunningProcessesFunc: func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.SUCCESS },
		GetTotalEccErrorsFunc: func(nvml.MemoryErrorType, nvml.EccCounterType) (uint64, nvml.Return) {
			return 0, nvml.ERROR_NOT_SUPPORTED
		},
		GetRemappedRowsFunc:              func() (int, int, bool, bool, nvml.Return) { return 0, 0, false, false, nvml.ERROR_NOT_SUPPORTED },
		GetRetiredPagesPendingStatusFunc: func() (nvml.EnableState, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED },
		GetFieldValuesFunc:               func([]nvml.FieldValue) nvml.Return { return nvml.ERROR_NOT_SUPPORTED },
	}
}

func readMock(t *testing.T, m nvml.Interface) []Device {
	t.Helper()
	list, err := newReader(&nvmlBackend{api: m, allProcesses: true}).Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestReservedMemory(t *testing.T) {
	want := Device{
		UUID: "GPU-0", Name: "NVIDIA X", ComputeCapability: "8.9", State: StateOK,
		TotalBytes: 80 << 30, UsableBytes: 79 << 30, FreeBytes: 70 << 30, UsedBytes: 9 << 30, ReservedBytes: 1 << 30,
		ComputeMode: ComputeDefault, Processes: []Process{},
	}
	if diff := cmp.Diff([]Device{want}, readMock(t, machine(healthy("GPU-0")))); diff != "" {
		t.Errorf("with the second memory call (-want +got):\n%s", diff)
	}
	// Unknown to the GPU, or to the library: then calling it would end the process.
	want.UsedBytes, want.ReservedBytes, want.UsableBytes = 10<<30, 0, 80<<30
	gpu := healthy("GPU-0")
	gpu.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) { return nvml.Memory_v2{}, nvml.ERROR_NOT_SUPPORTED }
	if diff := cmp.Diff([]Device{want}, readMock(t, machine(gpu))); diff != "" {
		t.Errorf("unsupported by the GPU (-want +got):\n%s", diff)
	}
	// Of a known product CUDA's total is known, too.
	a100 := healthy("GPU-0")
	a100.GetMemoryInfo_v2Func = gpu.GetMemoryInfo_v2Func
	a100.GetNameFunc = func() (string, nvml.Return) { return "NVIDIA A100 80GB PCIe", nvml.SUCCESS }
	if got := readMock(t, machine(a100))[0].UsableBytes; got != 7925<<30/100 {
		t.Errorf("of an A100, %d bytes are usable; want 79.25 GiB", got)
	}
	// The mock panics when these are called.
	gpu.GetMemoryInfo_v2Func, gpu.GetMigModeFunc, gpu.GetComputeModeFunc, gpu.GetComputeRunningProcessesFunc = nil, nil, nil, nil
	gpu.GetTotalEccErrorsFunc, gpu.GetRemappedRowsFunc, gpu.GetRetiredPagesPendingStatusFunc, gpu.GetFieldValuesFunc = nil, nil, nil, nil
	want.ComputeMode, want.Processes = "", nil
	want.ProcessesReason = "list processes: not supported by this GPU or driver"
	m := machine(gpu)
	m.ExtensionsFunc = func() nvml.ExtendedInterface {
		return &mock.ExtendedInterface{LookupSymbolFunc: func(string) error { return errors.New("no such symbol") }}
	}
	if diff := cmp.Diff([]Device{want}, readMock(t, m)); diff != "" {
		t.Errorf("missing from the library (-want +got):\n%s", diff)
	}
}

func TestOneBadGPUDoesNotHideTheOthers(t *testing.T) {
	tests := map[nvml.Return]State{
		nvml.ERROR_GPU_IS_LOST:    StateLost,
		nvml.ERROR_GPU_NOT_FOUND:  StateLost,
		nvml.ERROR_RESET_REQUIRED: StateResetRequired,
		nvml.ERROR_NO_PERMISSION:  StateNoPermission,
		nvml.ERROR_NOT_SUPPORTED:  StateUnknown,
		nvml.ERROR_UNKNOWN:        StateUnknown,
		nvml.ERROR_TIMEOUT:        StateUnknown,
	}
	for ret, want := range tests {
		noHandle := machine(healthy("GPU-0"), healthy("GPU-1"), healthy("GPU-2"))
		handle := noHandle.DeviceGetHandleByIndexFunc
		noHandle.DeviceGetHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
			if i == 1 {
				return nil, ret
			}
			return handle(i)
		}
		noMemory := healthy("GPU-1")
		noMemory.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return nvml.Memory{}, ret }
		noMemory.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) { return nvml.Memory_v2{}, ret }
		noUUID := healthy("")
		noUUID.GetUUIDFunc = func() (string, nvml.Return) { return "", ret }

		for what, m := range map[string]nvml.Interface{
			"handle": noHandle,
			"memory": machine(healthy("GPU-0"), noMemory, healthy("GPU-2")),
			"UUID":   machine(healthy("GPU-0"), noUUID, healthy("GPU-2")),
		} {
			list := readMock(t, m)
			if len(list) != 3 || list[0].State != StateOK || list[2].State != StateOK || list[2].UUID != "GPU-2" {
				t.Fatalf("%s, NVML error %d: %+v", what, ret, list)
			}
			if bad := list[1]; bad.State != want || bad.Reason == "" || bad.Index != 1 || bad.FreeBytes != 0 {
				t.Errorf("%s, NVML error %d: %+v; want state %s with a reason", what, ret, bad, want)
			}
		}
	}
}

func TestErrorsOfTheLibrary(t *testing.T) {
	tests := map[nvml.Return]error{
		nvml.ERROR_LIBRARY_NOT_FOUND:       ErrNoDriver,
		nvml.ERROR_DRIVER_NOT_LOADED:       ErrNoDriver,
		nvml.ERROR_LIB_RM_VERSION_MISMATCH: ErrVersionMismatch,
		nvml.ERROR_NO_PERMISSION:           ErrNoPermission,
		nvml.ERROR_GPU_IS_LOST:             ErrLost,
		nvml.ERROR_TIMEOUT:                 ErrTimeout,
		nvml.ERROR_FUNCTION_NOT_FOUND:      ErrUnsupported,
	}
	for ret, want := range tests {
		m := machine(healthy("GPU-0"))
		m.InitFunc = func() nvml.Return { return ret }
		if _, err := newReader(&nvmlBackend{api: m}).Devices(t.Context()); !errors.Is(err, want) {
			t.Errorf("Init returned %d: %v; want %v", ret, err, want)
		}
		m = machine(healthy("GPU-0"))
		m.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, ret }
		if _, err := newReader(&nvmlBackend{api: m}).Devices(t.Context()); !errors.Is(err, want) {
			t.Errorf("DeviceGetCount returned %d: %v; want %v", ret, err, want)
		}
	}
	if err := check("do nothing", nvml.SUCCESS); err != nil {
		t.Errorf("SUCCESS became %v", err)
	}
	err := check("fail", nvml.ERROR_OPERATING_SYSTEM)
	if err == nil || !strings.Contains(err.Error(), "17") {
		t.Errorf("an error without a sentinel of ours: %v", err)
	}
}

func TestUpgradeInTheMiddleOfARead(t *testing.T) {
	for _, ret := range []nvml.Return{nvml.ERROR_UNINITIALIZED, nvml.ERROR_LIB_RM_VERSION_MISMATCH} {
		gpu := healthy("GPU-0")
		memory := gpu.GetMemoryInfo_v2Func
		gpu.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) { return nvml.Memory_v2{}, ret }
		m := machine(gpu)
		m.ShutdownFunc = func() nvml.Return { return nvml.ERROR_UNINITIALIZED }
		r := newReader(&nvmlBackend{api: m})
		if list, err := r.Devices(t.Context()); err == nil {
			t.Fatalf("%d: no error, but %+v", ret, list)
		}
		gpu.GetMemoryInfo_v2Func = memory
		list, err := r.Devices(t.Context())
		if err != nil || len(list) != 1 || list[0].State != StateOK {
			t.Errorf("%d: after the upgrade: %+v, %v", ret, list, err)
		}
		if got := len(m.InitCalls()); got != 2 {
			t.Errorf("%d: initialized %d times; want 2", ret, got)
		}
		if err := r.Close(); err != nil {
			t.Errorf("%d: close: %v", ret, err)
		}
	}
}

func TestMIGDevices(t *testing.T) {
	parent := healthy("GPU-0")
	parent.GetMigModeFunc = func() (int, int, nvml.Return) { return nvml.DEVICE_MIG_ENABLE, 0, nvml.SUCCESS }
	parent.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) { return nvml.Memory_v2{}, nvml.ERROR_NO_PERMISSION }
	parent.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 4, nvml.SUCCESS }
	slice := healthy("MIG-2")
	slice.GetNameFunc = func() (string, nvml.Return) { return "NVIDIA X MIG 3g.40gb", nvml.SUCCESS }
	lost := healthy("MIG-3")
	lost.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) { return nvml.Memory_v2{}, nvml.ERROR_GPU_IS_LOST }
	parent.GetMigDeviceHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		switch i {
		case 1:
			return nil, nvml.ERROR_NO_PERMISSION
		case 2:
			return slice, nvml.SUCCESS
		case 3:
			return lost, nvml.SUCCESS
		}
		return nil, nvml.ERROR_NOT_FOUND
	}
	list := readMock(t, machine(parent, healthy("GPU-1")))
	var got []string
	for _, d := range list {
		if d.State != StateOK {
			if d.Reason == "" || d.FreeBytes != 0 {
				t.Errorf("%+v: want a reason and no memory", d)
			}
		}
		got = append(got, d.UUID+" "+string(d.State))
		if (d.MIG != nil) != (d.Index == 0 && d.UUID != "GPU-0") || d.MIG != nil && d.MIG.ParentUUID != "GPU-0" {
			t.Errorf("%s: MIG is %+v", d.UUID, d.MIG)
		}
	}
	want := []string{"GPU-0 partitioned", " no-permission", "MIG-2 ok", "MIG-3 lost", "GPU-1 ok"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	wantSlice := Device{
		UUID: "MIG-2", Name: "NVIDIA X MIG 3g.40gb", ComputeCapability: "8.9", State: StateOK, MIG: &MIG{ParentUUID: "GPU-0", Index: 2},
		TotalBytes: 80 << 30, UsableBytes: 79 << 30, FreeBytes: 70 << 30, UsedBytes: 9 << 30, ReservedBytes: 1 << 30,
		ComputeMode: ComputeDefault, Processes: []Process{},
	}
	if diff := cmp.Diff(wantSlice, list[2]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestBinaryBindsLazily reads the test binary itself, which was linked as the
// build at hand links: bound eagerly, it would not start without a driver.
func TestBinaryBindsLazily(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for tag, mask := range map[elf.DynTag]uint64{
		elf.DT_FLAGS:   uint64(elf.DF_BIND_NOW),
		elf.DT_FLAGS_1: uint64(elf.DF_1_NOW),
	} {
		values, err := f.DynValue(tag)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if v&mask != 0 {
				t.Errorf("%v has the bit %#x: NVML's symbols must be bound lazily; link with -extldflags=-Wl,-z,lazy", tag, mask)
			}
		}
	}
	symbols, err := f.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range symbols {
		found = found || strings.HasPrefix(s.Name, "nvml")
	}
	if !found {
		t.Error("the binary imports no NVML symbol; the test looks at the wrong thing")
	}
}
