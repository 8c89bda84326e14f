package gpu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const gi = uint64(1 << 30)

// boardFile is a file for a simulated board; write replaces it as an editor does.
type boardFile struct{ path string }

func newBoardFile(t *testing.T, content string) boardFile {
	t.Helper()
	f := boardFile{path: filepath.Join(t.TempDir(), "board.yaml")}
	f.write(t, content)
	return f
}

func (f boardFile) write(t *testing.T, content string) {
	t.Helper()
	if err := os.WriteFile(f.path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (f boardFile) open(t *testing.T, settings string) *Reader {
	t.Helper()
	r, err := Open("simulated:dgxh100,total=80GiB" + settings + ",file=" + f.path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func read(t *testing.T, r *Reader) []Device {
	t.Helper()
	list, err := r.Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if d.State == StateOK && d.UsedBytes+d.FreeBytes != d.TotalBytes {
			t.Errorf("device %d: %d used and %d free are not %d", d.Index, d.UsedBytes, d.FreeBytes, d.TotalBytes)
		}
	}
	return list
}

// A leak: the process is gone, its memory is not.
func TestFileLeak(t *testing.T) {
	f := newBoardFile(t, `devices: {0: {processes: [{pid: 4711, used: 70GiB}]}}`)
	r := f.open(t, "")
	d := read(t, r)[0]
	if diff := cmp.Diff([]Process{{PID: 4711, UsedBytes: 70 * gi, UsedKnown: true}}, d.Processes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if d.FreeBytes != 9*gi || !d.Usable() {
		t.Errorf("%d bytes are free; want 9 GiB beside the process and what an idle GPU holds", d.FreeBytes)
	}
	f.write(t, `devices: {0: {free: 9GiB}}`)
	list := read(t, r)
	if d := list[0]; d.FreeBytes != 9*gi || d.Processes == nil || len(d.Processes) != 0 {
		t.Errorf("after the process: %+v; want its memory held, and no process", d)
	}
	if d := list[1]; d.FreeBytes != 79*gi {
		t.Errorf("another device: %+v; want it idle", d)
	}
}

func TestFileFullAndBlocked(t *testing.T) {
	f := newBoardFile(t, `
all: {free: 0, processes: unknown}
devices:
  1: {computeMode: prohibited}
  2: {computeMode: exclusive-process, processes: [{pid: 1}], free: 10}
  3: {computeMode: exclusive-process, processes: [{pid: 1, mps: true}]}
  4: {ecc: {uncorrectedErrors: 2, repairPending: true}}
  5: {ecc: {repairFailed: true}, free: "80GiB"}
`)
	list := read(t, f.open(t, ",free=3GiB"))
	free := []uint64{0, 0, 10, 0, 0, 80 * gi, 0, 0}
	usable := []bool{true, false, false, true, false, true, true, true}
	for i, d := range list {
		if d.FreeBytes != free[i] || d.Usable() != usable[i] || (len(d.Conditions) > 0) != (i >= 1 && i <= 5) {
			t.Errorf("device %d: %+v; want %d bytes free, usable %t", i, d, free[i], usable[i])
		}
		if known := i == 2 || i == 3; (d.Processes != nil) != known || (d.ProcessesReason == "") != known {
			t.Errorf("device %d: processes %v, %q", i, d.Processes, d.ProcessesReason)
		}
	}
	if !list[3].MPS || list[2].MPS {
		t.Error("MPS is seen on the wrong device")
	}
}

func TestFileMIG(t *testing.T) {
	f := newBoardFile(t, `
devices:
  1:
    ecc: {uncorrectedErrors: 1}
    mig:
    - {profile: 3g.40gb, memory: 40GiB, free: 10GiB, processes: [{pid: 9, used: 29GiB}]}
    - {profile: 1g.10gb, memory: 10GiB}
    - {profile: 1g.10gb, memory: 10GiB, state: lost}
`)
	r := f.open(t, "")
	list := read(t, r)
	if len(list) != 11 {
		t.Fatalf("%d devices; want 8 and 3 parts", len(list))
	}
	parent, parts := list[1], list[2:5]
	if parent.State != StatePartitioned || parent.Usable() || parent.FreeBytes != 49*gi || parent.Processes != nil {
		t.Errorf("the GPU: %+v", parent)
	}
	seen := map[string]bool{}
	for i, p := range parts {
		if p.Index != 1 || p.MIG == nil || p.MIG.Index != i || p.MIG.ParentUUID != parent.UUID || !strings.HasPrefix(p.UUID, "MIG-") || seen[p.UUID] {
			t.Errorf("part %d: %+v", i, p)
		}
		seen[p.UUID] = true
	}
	if p := parts[0]; p.FreeBytes != 10*gi || p.Name != "NVIDIA H100 80GB HBM3 MIG 3g.40gb" || !p.Usable() || p.Processes[0].PID != 9 || p.ECC == nil {
		t.Errorf("%+v", p)
	}
	if p := parts[1]; p.FreeBytes != 10*gi || p.TotalBytes != 10*gi || len(p.Processes) != 0 || p.Processes == nil {
		t.Errorf("%+v", p)
	}
	if p := parts[2]; p.State != StateLost || p.TotalBytes != 0 || p.Reason == "" {
		t.Errorf("%+v", p)
	}
	if list[5].Index != 2 {
		t.Errorf("behind the parts comes %+v", list[5])
	}

	f.write(t, `{all: {mig: [{profile: 7g.80gb, memory: 80GiB}]}, devices: {0: {mig: []}, 1: {mig: false}, 2: {state: lost}}}`)
	var got []string
	for _, d := range read(t, r) {
		got = append(got, number(d)+" "+string(d.State))
	}
	want := []string{
		"0 partitioned", "1 ok", "2 lost", "3 partitioned", "3.0 ok", "4 partitioned", "4.0 ok", "5 partitioned", "5.0 ok",
		"6 partitioned", "6.0 ok", "7 partitioned", "7.0 ok",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A lost device comes back, and a driver is away for a while.
func TestFileSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newBoardFile(t, `
all: {free: 70GiB}
devices: {3: {state: lost}, 4: {free: 1GiB}}
steps:
- {after: 10s, devices: {3: {state: reset-required}}}
- {after: 20s, error: version-mismatch}
- {after: 30s, error: none, all: {free: 60GiB}, devices: {3: {state: ok, free: 50GiB}}}
`)
		r := f.open(t, "")
		at := func(d time.Duration) string {
			time.Sleep(d)
			list, err := r.Devices(t.Context())
			if err != nil {
				if !errors.Is(err, ErrVersionMismatch) {
					t.Fatal(err)
				}
				return "mismatch"
			}
			return fmt.Sprintf("%s %d %d %d", list[3].State, list[3].FreeBytes/gi, list[4].FreeBytes/gi, list[5].FreeBytes/gi)
		}
		got := []string{at(0), at(10*time.Second - 1), at(1), at(10 * time.Second), at(10 * time.Second), at(time.Hour)}
		want := []string{"lost 0 1 70", "lost 0 1 70", "reset-required 0 1 70", "mismatch", "ok 50 60 60", "ok 50 60 60"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		// Touched, the file is what it was; changed, its steps begin anew.
		f.write(t, `{devices: {3: {state: lost}}, steps: [{after: 1s, devices: {3: {state: ok}}}]}`)
		got = []string{at(0), at(time.Second)}
		if diff := cmp.Diff([]string{"lost 0 79 79", "ok 79 79 79"}, got); diff != "" {
			t.Errorf("after a change (-want +got):\n%s", diff)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// While a file cannot be used, nothing is known: not what it said before either.
func TestFileGoesBad(t *testing.T) {
	f := newBoardFile(t, `{all: {free: 70GiB}}`)
	r := f.open(t, "")
	read(t, r)
	for content, want := range map[string]string{
		"":                        "it is empty",
		"# soon":                  "it is empty",
		"all: {free: lots}":       `all.free: "lots" is no size`,
		strings.Repeat("#", 2e6):  "larger than 1.0 MiB",
		"{":                       "not YAML",
		"all: {free: 1, free: 2}": `key "free" already set`,
	} {
		f.write(t, content)
		for range 2 {
			list, err := r.Devices(t.Context())
			if err == nil || list != nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), f.path) {
				t.Errorf("%.20q: %v, %v; want %q", content, list, err, want)
			}
		}
	}
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Devices(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	f.write(t, `{all: {free: 70GiB}}`)
	if list := read(t, r); list[0].FreeBytes != 70*gi {
		t.Errorf("after the repair: %+v", list[0])
	}
}

// Without the fabric manager a GPU looks idle, and nothing can start on it.
func TestFileFabric(t *testing.T) {
	f := newBoardFile(t, `{all: {fabric: not-started}, devices: {1: {fabric: completed}, 2: {fabric: failed}}, steps: [{after: 1h, all: {fabric: completed}}]}`)
	list := read(t, f.open(t, ""))
	if d := list[0]; d.Usable() || d.FreeBytes != 79*gi || d.Conditions[0].Type != ConditionFabric {
		t.Errorf("not started: %+v", d)
	}
	if d := list[1]; !d.Usable() || len(d.Conditions) != 0 {
		t.Errorf("up: %+v", d)
	}
	if d := list[2]; !d.Usable() || len(d.Conditions) != 1 {
		t.Errorf("failed: %+v", d)
	}
}

func TestBadFiles(t *testing.T) {
	tests := map[string][]string{
		`7`:          {"the file: 7 is no mapping"},
		`{alll: {}}`: {"alll: {} is unknown here; the fields are error, all, devices, steps"},
		`{devices: {8: {}, -1: {}, "01": {}, x: {}}}`: {
			`devices.8: "8" is no GPU of this board; its indexes are 0 to 7`, `devices.-1: `, `devices.01: `, `devices.x: `,
		},
		`{devices: [1]}`:                                           {"devices: [1] is no mapping"},
		`{devices: {0: lost}}`:                                     {`devices.0: "lost" is no mapping`},
		`{all: {state: broken}}`:                                   {`all.state: "broken" is none of ok, lost, reset-required, no-permission, unknown`},
		`{all: {computeMode: 3}}`:                                  {"all.computeMode: 3 is none of default, exclusive-process, prohibited"},
		`{all: {free: 81GiB}}`:                                     {"all.free: 86973087744 is more than the 85899345920 bytes of the device"},
		`{all: {free: -1}}`:                                        {"all.free: -1 is no size"},
		`{all: {free: [1]}}`:                                       {"all.free: [1] is no size"},
		`{all: {used: 1}}`:                                         {"all.used: 1 is unknown here"},
		`{all: {processes: none}}`:                                 {`all.processes: "none" is neither a list`},
		`{all: {processes: [{pid: 0}]}}`:                           {"all.processes.0.pid: 0 is no process ID"},
		`{all: {processes: [{}]}}`:                                 {"all.processes.0.pid: null is no process ID"},
		`{all: {processes: [{pid: "1"}]}}`:                         {`all.processes.0.pid: "1" is no whole number`},
		`{all: {processes: [7]}}`:                                  {"all.processes.0: 7 is no mapping"},
		`{all: {processes: [{pid: 1, mps: 1}]}}`:                   {"all.processes.0.mps: 1 is neither true nor false"},
		`{all: {processes: [{pid: 1, used: x}]}}`:                  {`all.processes.0.used: "x" is no size`},
		`{all: {processes: [{pid: 1, size: 1}]}}`:                  {"all.processes.0.size: 1 is unknown here; the fields are pid, mps, used"},
		`{all: {free: 20GiB, processes: [{pid: 1, used: 61GiB}]}}`: {"all: 20.0 GiB are free, but processes use 61.0 GiB of 80.0 GiB"},
		`{all: {processes: [{pid: 1, used: 41GiB}, {pid: 2, used: 41GiB}]}}`:       {"all.processes: together they use more than the 80.0 GiB"},
		`{all: {ecc: {uncorrectedErrors: many}}}`:                                  {`all.ecc.uncorrectedErrors: "many" is no whole number`},
		`{all: {ecc: {corrected: 1}}}`:                                             {"all.ecc.corrected: 1 is unknown here"},
		`{all: {fabric: down}}`:                                                    {`all.fabric: "down" is none of not-started, in-progress, completed, failed`},
		`{all: {mig: true}}`:                                                       {"all.mig: true is neither a list of parts nor false"},
		`{all: {mig: [{}]}}`:                                                       {"all.mig.0.profile: null is missing", "all.mig.0.memory: null is no size of a part"},
		`{all: {mig: [{profile: 1, memory: 1GiB}]}}`:                               {"all.mig.0.profile: 1 is no MIG profile"},
		`{all: {mig: [{profile: a, memory: 1GiB, mig: []}]}}`:                      {"all.mig.0.mig: [] is unknown here"},
		`{all: {mig: [{profile: a, memory: 41GiB}, {profile: a, memory: 41GiB}]}}`: {"all.mig.1.memory: the parts have together more than the 80.0 GiB"},
		`{all: {mig: [{profile: a, memory: 1GiB, free: 2GiB}]}}`:                   {"all.mig.0.free: 2147483648 is more than the 1073741824 bytes"},
		`{error: lost}`:                                   {`error: "lost" is none of none, no-driver`},
		`{error: 9}`:                                      {"error: 9 is none of"},
		`{steps: 1}`:                                      {"steps: 1 is no list"},
		`{steps: [{all: {}}]}`:                            {"steps.0.after: null is missing"},
		`{steps: [{after: 10}]}`:                          {"steps.0.after: 10 is no duration"},
		`{steps: [{after: -1s}]}`:                         {`steps.0.after: "-1s" is no duration`},
		`{steps: [{after: 2s}, {after: 1s}]}`:             {`steps.1.after: "1s" comes before the 2s of the step above`},
		`{steps: [{after: 2s, steps: []}]}`:               {"steps.0.steps: [] is unknown here"},
		`{steps: [{after: 2s, all: {free: 1PB}}]}`:        {`steps.0.all.free: "1PB" is no size`},
		`{steps: [{after: 2s, all: {free: 1TB}}]}`:        {"steps.0.all.free: 1000000000000 is more than the 85899345920 bytes"},
		`{all: {free: a, state: b}, error: c}`:            {"all.free: ", "all.state: ", "error: "},
		`{all: {free: ` + strings.Repeat("x", 999) + `}}`: {`xxx... is no size`},
	}
	for content, want := range tests {
		f := newBoardFile(t, content)
		r, err := Open("simulated:dgxh100,total=80GiB,file=" + f.path)
		if err == nil {
			t.Errorf("%s: %v; want an error", content, r)
			continue
		}
		for _, part := range append(want, f.path) {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", content, err, part)
			}
		}
		if n := strings.Count(err.Error(), "\n"); n > 3 {
			t.Errorf("%s: %d lines: %s", content, n+1, err)
		}
	}
}

func TestBadFileSettings(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]string{
		"simulated:dgxh100,file":              `setting "file" has no value`,
		"simulated:dgxh100,file=":             "file is empty",
		"simulated:dgxh100,file=a,file=b":     "file is set twice",
		"simulated:dgxh100,file=/nonexistent": "/nonexistent: no such file",
		"simulated:dgxh100,file=" + pipe:      "pipe is no regular file",
		"simulated:dgxh100,file=/dev/zero":    "/dev/zero is no regular file",
	} {
		if _, err := Open(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q): %v; want %q", spec, err, want)
		}
	}
}
