//go:build cgo && linux

package gpu

import (
	"errors"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// readMemory fills in a device's memory: the machine's where the GPU has none of
// its own, NVML's otherwise.
func (b *nvmlBackend) readMemory(d *Device, handle nvml.Device) error {
	if d.MIG == nil && isIntegrated(d.ComputeCapability) {
		return b.readHostMemory(d)
	}
	err := b.readOwnMemory(d, handle)
	if errors.Is(err, ErrUnsupported) && d.MIG == nil && !b.inMIGMode(handle) {
		// NVML's documentation: not supported where an integrated GPU has no
		// frame buffer and shares the system's memory.
		return b.readHostMemory(d)
	}
	if err == nil && d.MIG == nil && b.has("nvmlDeviceGetNumaNodeId") {
		if node, ret := handle.GetNumaNodeId(); ret == nvml.SUCCESS {
			d.PageCacheBytes = min(nodeCache(b.root, node), d.UsedBytes)
		}
	}
	return err
}

// isIntegrated reports whether GPUs of a compute capability share the machine's
// memory: Jetson TX1 and TX2, Xavier, Orin, Thor (before and since CUDA 13) and
// GB10, by NVIDIA's table (developer.nvidia.com/cuda-gpus). Some of their drivers
// report the machine's memory as the GPU's, with the page cache as used.
func isIntegrated(capability string) bool {
	switch capability {
	case "5.3", "6.2", "7.2", "8.7", "10.1", "11.0", "12.1":
		return true
	}
	return false
}

// readHostMemory takes the memory as vLLM does on such GPUs: what is free is
// MemAvailable (MemorySnapshot.measure in
// vllm/utils/mem_utils.py of 0.33), and CUDA's total is
// MemTotal.
func (b *nvmlBackend) readHostMemory(d *Device) error {
	total, available, err := hostMemory(b.root)
	if err != nil {
		return fmt.Errorf("GPU %d shares the machine's memory, which cannot be read: %w", d.Index, err)
	}
	d.UnifiedMemory = true
	d.TotalBytes, d.FreeBytes, d.UsedBytes = total, available, total-available
	return nil
}

// readOwnMemory prefers the second version of the call, which tells reserved memory
// apart. Free and total are the same in both.
func (b *nvmlBackend) readOwnMemory(d *Device, handle nvml.Device) error {
	if b.has("nvmlDeviceGetMemoryInfo_v2") {
		m, ret := handle.GetMemoryInfo_v2()
		err := check(fmt.Sprintf("read the memory of GPU %d", d.Index), ret)
		if err == nil {
			d.TotalBytes, d.FreeBytes, d.ReservedBytes = m.Total, min(m.Free, m.Total), min(m.Reserved, m.Total-min(m.Free, m.Total))
			d.UsedBytes = d.TotalBytes - d.FreeBytes - d.ReservedBytes
			return nil
		}
		if !errors.Is(err, ErrUnsupported) {
			return err
		}
	}
	m, ret := handle.GetMemoryInfo()
	if err := check(fmt.Sprintf("read the memory of GPU %d", d.Index), ret); err != nil {
		return err
	}
	d.TotalBytes, d.FreeBytes = m.Total, min(m.Free, m.Total)
	d.UsedBytes = d.TotalBytes - d.FreeBytes
	return nil
}
