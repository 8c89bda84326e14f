//go:build cgo && linux

package gpu

import (
	"errors"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestNVIDIASMI compares what is read here with what NVIDIA's own tool reads.
func TestNVIDIASMI(t *testing.T) {
	if _, err := exec.LookPath("nvidia-smi"); err != nil {
		t.Skipf("SKIPPED: nothing to compare real GPUs with: %v", err)
	}
	r, err := Open("auto")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := r.Devices(t.Context()); errors.Is(err, ErrNoDriver) {
		t.Skipf("SKIPPED: no real GPUs to read: %v", err)
	}
	// Memory and processes change between two reads; a few times they do not.
	var diff string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		before := summaries(t, r)
		theirs := smiSummaries(t)
		if !cmp.Equal(before, summaries(t, r)) {
			continue
		}
		if diff = cmp.Diff(theirs, before); diff == "" {
			t.Logf("the same as nvidia-smi: %+v", before)
			return
		}
	}
	t.Errorf("(-nvidia-smi +here):\n%s", diff)
}

// summary is what both tell of a GPU; sizes in MiB, as nvidia-smi rounds them.
type summary struct {
	Index, UUID, Name, Total, Free, MIG, Mode string
	Parts                                     []string // the UUIDs of its MIG devices
	Processes                                 []string // "PID MIB", or nil where they cannot be compared
}

func summaries(t *testing.T, r *Reader) []summary {
	t.Helper()
	list, err := r.Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mib := func(bytes uint64) string { return strconv.FormatUint(bytes>>20, 10) }
	var out []summary
	for _, d := range list {
		if d.UsedBytes+d.FreeBytes+d.ReservedBytes != d.TotalBytes {
			t.Errorf("%+v: used, free and reserved are not the total", d)
		}
		if d.MIG != nil {
			last := &out[len(out)-1]
			last.Parts = append(last.Parts, d.UUID)
			continue
		}
		s := summary{Index: strconv.Itoa(d.Index), UUID: d.UUID, Name: d.Name, Total: mib(d.TotalBytes), Free: mib(d.FreeBytes), MIG: "Enabled"}
		if d.State != StatePartitioned {
			s.MIG = "" // Disabled, or not supported: the same for us
			s.Mode = string(d.ComputeMode)
		}
		if !d.ProcessesPartial {
			for _, p := range d.Processes {
				one := strconv.FormatUint(uint64(p.PID), 10)
				if p.UsedKnown {
					one += " " + mib(p.UsedBytes)
				}
				s.Processes = append(s.Processes, one)
			}
			slices.Sort(s.Processes)
		}
		out = append(out, s)
	}
	return out
}

func smiSummaries(t *testing.T) []summary {
	t.Helper()
	var out []summary
	byUUID := map[string]int{}
	for _, f := range smi(t, "--query-gpu=index,uuid,name,memory.total,memory.free,mig.mode.current,compute_mode", "--format=csv,noheader,nounits") {
		s := summary{Index: f[0], UUID: f[1], Name: f[2], Total: f[3], Free: f[4]}
		if f[5] == "Enabled" {
			s.MIG = "Enabled"
		} else {
			s.Mode = map[string]string{"Default": "default", "Exclusive_Process": "exclusive-process", "Prohibited": "prohibited"}[f[6]]
		}
		byUUID[s.UUID] = len(out)
		out = append(out, s)
	}
	if seesAllProcesses() {
		for _, f := range smi(t, "--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv,noheader,nounits") {
			one := f[1]
			if _, err := strconv.Atoi(f[2]); err == nil {
				one += " " + f[2]
			}
			if i, ok := byUUID[f[0]]; ok && out[i].MIG == "" {
				out[i].Processes = append(out[i].Processes, one)
				slices.Sort(out[i].Processes)
			}
		}
	}
	// "  MIG 1g.10gb     Device  0: (UUID: MIG-...)", under the line of its GPU.
	last := -1
	for _, f := range smi(t, "--list-gpus") {
		line := strings.Join(f, ", ")
		if strings.HasPrefix(line, "GPU ") {
			last++
		} else if _, id, ok := strings.Cut(line, "(UUID: "); ok && strings.HasPrefix(line, "MIG ") {
			out[last].Parts = append(out[last].Parts, strings.TrimSuffix(id, ")"))
		}
	}
	return out
}

// smi runs nvidia-smi and splits its lines at the commas.
func smi(t *testing.T, args ...string) [][]string {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), "nvidia-smi", args...).Output()
	if err != nil {
		t.Fatalf("nvidia-smi %v: %v\n%s", args, err, text)
	}
	var lines [][]string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, strings.Split(line, ", "))
		}
	}
	return lines
}
