package gpu

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func devicesOf(t *testing.T, spec string) []Device {
	t.Helper()
	r, err := Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	list, err := r.Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestOpenNone(t *testing.T) {
	r, err := Open("none")
	if err != nil {
		t.Fatal(err)
	}
	if list, err := r.Devices(t.Context()); !errors.Is(err, ErrNoDriver) || list != nil {
		t.Errorf("Devices() = %v, %v; want ErrNoDriver", list, err)
	}
}

func TestSimulatedBoards(t *testing.T) {
	for _, name := range boardNames() {
		list := devicesOf(t, "simulated:"+name)
		want := 8
		if name == "gb10" {
			want = 1
		}
		if len(list) != want {
			t.Fatalf("%s has %d devices; want %d", name, len(list), want)
		}
		var uuids []string
		for i, d := range list {
			if d.Index != i || d.State != StateOK || d.ComputeCapability == "" || d.Name == "" {
				t.Errorf("%s: device %d is %+v", name, i, d)
			}
			if d.FreeBytes != d.TotalBytes-1<<30 || d.UsedBytes+d.FreeBytes+d.ReservedBytes != d.TotalBytes {
				t.Errorf("%s: device %d: free %d and used %d of %d", name, i, d.FreeBytes, d.UsedBytes, d.TotalBytes)
			}
			uuids = append(uuids, d.UUID)
		}
		if slices.Sort(uuids); len(slices.Compact(uuids)) != want {
			t.Errorf("%s: UUIDs repeat: %v", name, uuids)
		}
		if diff := cmp.Diff(list, devicesOf(t, "simulated:"+name)); diff != "" {
			t.Errorf("%s differs from one reader to the next:\n%s", name, diff)
		}
	}
	// Deterministic over releases too: a table that people compare.
	if got, want := devicesOf(t, "simulated:dgxh200")[3].UUID, "GPU-9746dff7-38c8-7b7b-a974-5f5b4c5d7bd4"; got != want {
		t.Errorf("UUID of dgxh200's GPU 3 is %s; want %s", got, want)
	}
}

func TestSimulatedFreeMemory(t *testing.T) {
	const total = 151397597184
	free := func(list []Device) []uint64 {
		var out []uint64
		for _, d := range list {
			if d.TotalBytes != total || d.UsedBytes != d.TotalBytes-d.FreeBytes {
				t.Errorf("device %d: %+v", d.Index, d)
			}
			out = append(out, d.FreeBytes)
		}
		return out
	}
	const gi = 1 << 30
	tests := map[string][]uint64{
		"simulated:dgxh200,free=2GiB":                 {2 * gi, 2 * gi, 2 * gi, 2 * gi, 2 * gi, 2 * gi, 2 * gi, 2 * gi},
		"simulated:dgxh200,free=2GiB,free.7=500MiB":   {2 * gi, 2 * gi, 2 * gi, 2 * gi, 2 * gi, 2 * gi, 2 * gi, 500 << 20},
		"simulated:dgxh200,free.0=141GiB,free=0":      {141 * gi, 0, 0, 0, 0, 0, 0, 0},
		"simulated:dgxh200,free=0B,free.1=1,free.2=0": {0, 1, 0, 0, 0, 0, 0, 0},
	}
	for spec, want := range tests {
		if diff := cmp.Diff(want, free(devicesOf(t, spec))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", spec, diff)
		}
	}
}

// CUDA's total is the driver's reserve less than NVML's, by which vLLM's budget
// is as much smaller.
func TestSimulatedTotals(t *testing.T) {
	hundredths := func(bytes uint64) uint64 { return (bytes*100 + 1<<29) >> 30 }
	tests := map[string][4]uint64{ // GPU 0's and GPU 1's, as NVML and CUDA report them; in 0.01 GiB
		"simulated:dgxh100":                                {7965, 7919, 7965, 7919},
		"simulated:dgxa100":                                {4000, 3939, 4000, 3939},
		"simulated:a100-80gb":                              {8000, 7925, 8000, 7925},
		"simulated:l4":                                     {2249, 2205, 2249, 2205},
		"simulated:rtx6000ada":                             {4799, 4740, 4799, 4740},
		"simulated:rtxpro6000":                             {9559, 9497, 9559, 9497},
		"simulated:l4,total=10GiB":                         {1000, 956, 1000, 956},
		"simulated:l4,total.1=0,free=0":                    {2249, 2205, 0, 0},
		"simulated:l4,free=9GiB,total.1=12GiB,total=10GiB": {1000, 956, 1200, 1156},
	}
	for spec, want := range tests {
		list := devicesOf(t, spec)
		got := [4]uint64{
			hundredths(list[0].TotalBytes), hundredths(list[0].UsableBytes), hundredths(list[1].TotalBytes), hundredths(list[1].UsableBytes),
		}
		if got != want {
			t.Errorf("%s: %v; want %v", spec, got, want)
		}
		for _, d := range list {
			if d.UsedBytes+d.FreeBytes != d.TotalBytes {
				t.Errorf("%s: %+v: used and free are not the total", spec, d)
			}
		}
	}
}

func TestProductsAreBelowTheirTotals(t *testing.T) {
	for _, p := range products() {
		if part := float64(p.usableBytes) / float64(p.totalBytes); part < 0.96 || part >= 1 {
			t.Errorf("%s: CUDA has %.4f of NVML's total", p.names[0], part)
		}
	}
}

func TestBadSpecs(t *testing.T) {
	tests := map[string][]string{
		"nvidia":                                   {`"nvidia"`, "auto", "none", "dgxa100, dgxb200, dgxh100, dgxh200"},
		"simulated":                                {`"simulated"`, "simulated:BOARD", "dgxa100, dgxb200, dgxh100, dgxh200"},
		"simulated:":                               {`board ""`, "dgxa100, dgxb200, dgxh100, dgxh200"},
		"simulated:dgxh300":                        {`board "dgxh300"`, "dgxa100, dgxb200, dgxh100, dgxh200"},
		"simulated:dgxh200,":                       {`setting ""`, "free=SIZE"},
		"simulated:dgxh200,free":                   {`setting "free"`, "free=SIZE"},
		"simulated:dgxh200,used=2GiB":              {`setting "used"`, "free=SIZE"},
		"simulated:dgxh200,free=":                  {"free", `size ""`, "2GiB"},
		"simulated:dgxh200,free=many":              {"free", `size "many"`, "2GiB"},
		"simulated:dgxh200,free=2Gi":               {`size "2Gi"`, "2GiB"},
		"simulated:dgxh200,free=-1GiB":             {`size "-1GiB"`},
		"simulated:dgxh200,free=1e3GiB":            {`size "1e3GiB"`},
		"simulated:dgxh200,free=1/2GiB":            {`size "1/2GiB"`},
		"simulated:dgxh200,free=0.1B":              {`size "0.1B"`, "whole number"},
		"simulated:dgxh200,free=99999999999TiB":    {`size "99999999999TiB"`, "too large"},
		"simulated:dgxh200,free=142GiB":            {"free", "142GiB", "141.0 GiB"},
		"simulated:dgxh200,total=2GiB,free.3=3GiB": {"free.3: 3GiB is more than the 2.0 GiB that GPU 3 has"},
		"simulated:dgxh200,total=lots":             {"total", `size "lots"`},
		"simulated:dgxh200,total.9=1GiB":           {"total.9", `"9"`, "0 to 7"},
		"simulated:dgxh200,total=1,total=1":        {"total is set twice"},
		"simulated:gb10,free.1=1GiB":               {"free.1", "0 to 0"},
		"simulated:dgxh200,free.8=1GiB":            {`free.8`, `"8"`, "0 to 7"},
		"simulated:dgxh200,free.-1=1GiB":           {`"-1"`, "0 to 7"},
		"simulated:dgxh200,free.01=1GiB":           {`"01"`, "0 to 7"},
		"simulated:dgxh200,free.=1GiB":             {`""`, "0 to 7"},
		"simulated:dgxh200,free=1GiB,free=2GiB":    {"free is set twice"},
		"simulated:dgxh200,free.3=1B,free.3=2GiB":  {"free.3 is set twice"},
	}
	for spec, want := range tests {
		r, err := Open(spec)
		if err == nil {
			t.Errorf("Open(%q) = %v; want an error", spec, r)
			continue
		}
		for _, part := range append(want, spec) {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("Open(%q): %q does not say %q", spec, err, part)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "1": 1, "7B": 7, "1KiB": 1 << 10, "500MiB": 500 << 20, "2GiB": 2 << 30, "1.5GiB": 3 << 29,
		"1TiB": 1 << 40, "1KB": 1000, "2.5MB": 2500000, "80GB": 80e9, "1TB": 1e12, "18446744073709551615": 1<<64 - 1,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for bytes, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 500 << 20: "500.0 MiB", 151397597184: "141.0 GiB", 3 << 40: "3.0 TiB",
	} {
		if got := FormatSize(bytes); got != want {
			t.Errorf("FormatSize(%d) = %q; want %q", bytes, got, want)
		}
	}
}
