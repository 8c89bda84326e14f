package gpu

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestTable(t *testing.T) {
	const gi = 1 << 30
	gpu := func(index int, used uint64) Device {
		d := boards()["dgxh100"].devices("dgxh100")[index].resized(80 * gi)
		d.UsedBytes, d.FreeBytes = used, d.TotalBytes-used
		return d
	}
	tests := map[string][]Device{
		"none":  nil,
		"board": devicesOf(t, "simulated:dgxa100,free.1=500MiB,free.2=0,free.3=40GiB,free.4=20GiB"),
		"states": {
			gpu(0, 1),
			gpu(1, 80*gi-1),
			{Index: 2, UUID: "GPU-2", Name: "NVIDIA H100 80GB HBM3", State: StateLost, Reason: "open GPU 2: GPU is lost (NVML error 15)"},
			{
				Index: 3, UUID: "GPU-3", Name: "NVIDIA H100 80GB HBM3", State: StatePartitioned, Reason: "in MIG mode",
				TotalBytes: 80 * gi, FreeBytes: 78 * gi, UsedBytes: gi, ReservedBytes: gi,
			},
			{
				Index: 3, UUID: "MIG-3-0", Name: "NVIDIA H100 80GB HBM3 MIG 3g.40gb", State: StateOK, MIG: &MIG{ParentUUID: "GPU-3"},
				TotalBytes: 40 * gi, FreeBytes: 30 * gi, UsedBytes: 10 * gi,
			},
			{
				Index: 3, UUID: "MIG-3-2", Name: "NVIDIA H100 80GB HBM3 MIG 1g.10gb", State: StateOK, MIG: &MIG{ParentUUID: "GPU-3", Index: 2},
				TotalBytes: 10 * gi, FreeBytes: 10 * gi,
			},
			{
				Index: 5, Name: "NVIDIA H100 80GB HBM3", State: StateOK, TotalBytes: 80 * gi, FreeBytes: 19 * gi, UsedBytes: 61 * gi,
				Processes: []Process{
					{PID: 7, UsedBytes: 20 * gi, UsedKnown: true, MPS: true}, {PID: 4194304, UsedBytes: 40 * gi, UsedKnown: true}, {PID: 12}, {},
				},
				ProcessesPartial: true, ProcessesReason: "hidden",
				Conditions: []Condition{{Type: ConditionRepairPending, Reason: "a reset would repair it"}},
			},
			{
				Index: 6, Name: "NVIDIA H100 80GB HBM3", State: StateOK, TotalBytes: 80 * gi, FreeBytes: 79 * gi, UsedBytes: gi,
				ProcessesReason: "no permission",
				Conditions: []Condition{
					{Type: ConditionRepairPending, Reason: "a reset would repair it"}, {Type: ConditionProhibited, Blocks: true, Reason: "nobody may"},
				},
			},
			{Index: 4, Name: "a\tname\nthat breaks tables", State: StateUnknown, Reason: "two\nlines"},
		},
	}
	for name, devices := range tests {
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", "table-"+name+".txt")
			got := Table(devices)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("table differs from %s (-want +got):\n%s", golden, diff)
			}
		})
	}
}
