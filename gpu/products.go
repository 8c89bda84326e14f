package gpu

import "strings"

// product is a kind of GPU, as NVML and CUDA report it.
type product struct {
	// names are what NVML calls it. The first is that of the simulated board.
	names []string
	// totalBytes is NVML's total, of all names.
	totalBytes uint64
	// usableBytes is CUDA's total: what is left of NVML's after the driver's own
	// reserve. It differs by some 0.1 GiB from driver to driver.
	usableBytes       uint64
	computeCapability string
}

// products are the GPUs whose CUDA total is known from public logs: out-of-memory
// errors of PyTorch ("GPU 0 has a total capacity of 79.19 GiB"), startups of vLLM
// and deviceQuery; NVML's totals are those of nvidia-smi. Where logs differ from
// driver to driver, the most frequent one is here. None was checked on hardware.
func products() []product {
	mib := func(total uint64) uint64 { return total << 20 }
	gib := func(hundredths uint64) uint64 { return hundredths << 30 / 100 }
	return []product{
		{[]string{"Tesla T4"}, mib(15360), gib(1456), "7.5"},
		{[]string{"NVIDIA L4"}, mib(23034), gib(2205), "8.9"},
		{[]string{"NVIDIA A10", "NVIDIA A10G"}, mib(23028), gib(2206), "8.6"},
		{[]string{"NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"}, mib(40960), gib(3939), "8.0"},
		{[]string{"NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"}, mib(81920), gib(7925), "8.0"},
		{[]string{"NVIDIA L40S"}, mib(46068), gib(4439), "8.9"},
		{[]string{"NVIDIA RTX 6000 Ada Generation"}, mib(49140), gib(4740), "8.9"},
		{
			[]string{
				"NVIDIA RTX PRO 6000 Blackwell Server Edition", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
				"NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
			}, mib(97887), gib(9497), "12.0",
		},
		{[]string{"NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe"}, mib(81559), gib(7919), "9.0"},
		{[]string{"NVIDIA H200"}, mib(143771), gib(13980), "9.0"},
		{[]string{"NVIDIA B200"}, mib(183359), gib(17835), "10.0"},
	}
}

// productOf is the product of a name and NVML's total. A board with another total
// is another product, whatever its name: a virtual GPU, or one of the simulated.
func productOf(name string, totalBytes uint64) (product, bool) {
	for _, p := range products() {
		for _, n := range p.names {
			if strings.EqualFold(n, name) && p.totalBytes == totalBytes {
				return p, true
			}
		}
	}
	return product{}, false
}

// usableBytes is what CUDA calls the total of a device; see [Device.UsableBytes].
func usableBytes(d Device) uint64 {
	if d.UnifiedMemory {
		return d.TotalBytes
	}
	if d.ReservedBytes > 0 {
		return d.TotalBytes - min(d.ReservedBytes, d.TotalBytes)
	}
	if p, ok := productOf(d.Name, d.TotalBytes); ok && d.MIG == nil {
		return p.usableBytes
	}
	return d.TotalBytes
}
