package gpu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// board is a machine of equal GPUs.
type board struct {
	gpus              int
	name              string
	totalBytes        uint64
	usableBytes       uint64 // CUDA's total
	computeCapability string
	unified           bool
}

// boards are the machines that can be simulated. Totals are what NVML reports;
// those of dgxh200 and dgxb200 are what go-nvml's mocks report, 0.6 and 0.9 GiB
// more than the real ones. A test holds the DGX machines against the mocks; they
// are tables of our own because the mocks do not build without cgo.
func boards() map[string]board {
	of := func(gpus int, name string) board {
		for _, p := range products() {
			if p.names[0] == name {
				return board{gpus, name, p.totalBytes, p.usableBytes, p.computeCapability, false}
			}
		}
		panic("no product " + name)
	}
	mock := func(gpus int, name, real string, totalBytes uint64) board {
		b := of(gpus, real)
		b.name, b.totalBytes = name, totalBytes
		return b
	}
	return map[string]board{
		"dgxa100":    of(8, "NVIDIA A100-SXM4-40GB"),
		"dgxh100":    of(8, "NVIDIA H100 80GB HBM3"),
		"dgxh200":    mock(8, "NVIDIA H200 141GB HBM3e", "NVIDIA H200", 144384<<20),
		"dgxb200":    mock(8, "NVIDIA B200 180GB HBM3e", "NVIDIA B200", 184320<<20),
		"a100-80gb":  of(8, "NVIDIA A100-SXM4-80GB"),
		"a10":        of(8, "NVIDIA A10"),
		"l4":         of(8, "NVIDIA L4"),
		"l40s":       of(8, "NVIDIA L40S"),
		"rtx6000ada": of(8, "NVIDIA RTX 6000 Ada Generation"),
		"rtxpro6000": of(8, "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
		"gb10":       {1, "NVIDIA GB10", 12169 << 30 / 100, 12169 << 30 / 100, "12.1", true},
	}
}

func boardNames() []string {
	return slices.Sorted(maps.Keys(boards()))
}

// idleBytes is what an idle simulated GPU does not have free, about what the
// driver of a real one keeps.
const idleBytes = 1 << 30

// simulated is the backend of a board. Without a file it has the same devices
// at each read.
type simulated struct {
	board board
	list  []Device // as the spec says
	path  string   // of the file that says more; empty for none

	// What is known of the file: its content, when it was first read, and what
	// it says or what is wrong with it.
	content []byte
	since   time.Time
	script  script
	err     error
}

func (*simulated) open() error  { return nil }
func (*simulated) close() error { return nil }

func (s *simulated) devices(context.Context) ([]Device, error) {
	if s.path == "" {
		return slices.Clone(s.list), nil
	}
	if err := s.reload(); err != nil {
		return nil, err
	}
	return s.script.at(time.Since(s.since), s.list)
}

// parseSimulated reads what follows "simulated:".
func parseSimulated(spec string) (*simulated, error) {
	parts := strings.Split(spec, ",")
	b, ok := boards()[parts[0]]
	if !ok {
		return nil, fmt.Errorf("board %q does not exist; the boards are %s", parts[0], strings.Join(boardNames(), ", "))
	}
	s := &simulated{board: b, list: b.devices(parts[0])}
	seen := map[string]bool{}
	var totals, frees []setting
	for _, part := range parts[1:] {
		set, err := parseSetting(part, b)
		if err != nil {
			return nil, err
		}
		if seen[set.name()] {
			return nil, fmt.Errorf("%s is set twice", set.name())
		}
		seen[set.name()] = true
		switch set.key {
		case "file":
			s.path = set.path
		case "total":
			totals = append(totals, set)
		case "free":
			frees = append(frees, set)
		}
	}
	for _, set := range general(totals) {
		for i := range s.list {
			if set.of(i) {
				s.list[i] = s.list[i].resized(set.size)
			}
		}
	}
	for _, set := range general(frees) {
		for i := range s.list {
			d := &s.list[i]
			if !set.of(i) {
				continue
			}
			if set.size > d.TotalBytes {
				return nil, fmt.Errorf("%s: %s is more than the %s that GPU %d has", set.name(), set.text, FormatSize(d.TotalBytes), i)
			}
			d.FreeBytes, d.UsedBytes = set.size, d.TotalBytes-set.size
		}
	}
	if s.path != "" {
		if err := s.reload(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// setting is one "total=SIZE" or "free=SIZE" (index -1), one of a single GPU
// ("free.INDEX=SIZE"), or "file=PATH".
type setting struct {
	key   string
	index int
	text  string // of the size
	size  uint64
	path  string
}

// of reports whether the setting is meant for a GPU.
func (s setting) of(index int) bool { return s.index < 0 || s.index == index }

func (s setting) name() string {
	if s.index < 0 {
		return s.key
	}
	return s.key + "." + strconv.Itoa(s.index)
}

// general sorts what is set for all GPUs before what is set for one, which wins
// over it, whatever their order in the spec.
func general(settings []setting) []setting {
	slices.SortStableFunc(settings, func(a, b setting) int { return min(a.index, 0) - min(b.index, 0) })
	return settings
}

// settingForms are what parseSetting accepts.
const settingForms = "total=SIZE, free=SIZE, total.INDEX=SIZE, free.INDEX=SIZE or file=PATH"

func parseSetting(part string, b board) (setting, error) {
	key, value, ok := strings.Cut(part, "=")
	if !ok {
		return setting{}, fmt.Errorf("setting %q has no value; want %s", part, settingForms)
	}
	kind, number, isIndexed := strings.Cut(key, ".")
	set := setting{key: kind, index: -1}
	switch {
	case key == "file":
		if value == "" {
			return setting{}, errors.New("file is empty; want file=PATH")
		}
		set.path = value
		return set, nil
	case kind != "free" && kind != "total":
		return setting{}, fmt.Errorf("setting %q does not exist; want %s", key, settingForms)
	case isIndexed:
		index, err := strconv.Atoi(number)
		if err != nil || index < 0 || index >= b.gpus || strconv.Itoa(index) != number {
			return setting{}, fmt.Errorf("%s: this board has no GPU %q; its indexes are 0 to %d", key, number, b.gpus-1)
		}
		set.index = index
	}
	size, err := ParseSize(value)
	if err != nil {
		return setting{}, fmt.Errorf("%s: %w", key, err)
	}
	set.text, set.size = value, size
	return set, nil
}

// resized is an idle device with another total; the driver keeps as much of it
// as before.
func (d Device) resized(totalBytes uint64) Device {
	reserved := d.TotalBytes - d.UsableBytes
	d.TotalBytes, d.UsableBytes = totalBytes, totalBytes-min(totalBytes, reserved)
	d.FreeBytes = totalBytes - min(totalBytes, idleBytes)
	d.UsedBytes = totalBytes - d.FreeBytes
	return d
}

// devices are the board's GPUs, idle.
func (b board) devices(boardName string) []Device {
	list := make([]Device, b.gpus)
	for i := range list {
		list[i] = Device{
			Index: i, UUID: simulatedUUID(boardName, i), Name: b.name, ComputeCapability: b.computeCapability,
			TotalBytes: b.totalBytes, UsableBytes: b.usableBytes, FreeBytes: b.totalBytes - idleBytes, UsedBytes: idleBytes,
			State: StateOK, ComputeMode: ComputeDefault, Processes: []Process{}, UnifiedMemory: b.unified,
		}
	}
	return list
}

// simulatedUUID has the form of a real one and depends on board and index only,
// so that labels, tests and tables are the same on each run.
func simulatedUUID(boardName string, index int) string {
	return "GPU-" + uuidOf(fmt.Sprintf("simulated %s %d", boardName, index))
}

func uuidOf(seed string) string {
	sum := sha256.Sum256([]byte(seed))
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
