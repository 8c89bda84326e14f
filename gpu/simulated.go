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
	computeCapability string
}

// boards are the DGX machines that go-nvml's mocks have too; a test holds the
// two against each other. They are tables of our own because the mocks do not
// build without cgo. Totals are what NVML reports.
func boards() map[string]board {
	return map[string]board{
		"dgxa100": {gpus: 8, name: "NVIDIA A100-SXM4-40GB", totalBytes: 40960 << 20, computeCapability: "8.0"},
		"dgxh100": {gpus: 8, name: "NVIDIA H100 80GB HBM3", totalBytes: 81920 << 20, computeCapability: "9.0"},
		"dgxh200": {gpus: 8, name: "NVIDIA H200 141GB HBM3e", totalBytes: 144384 << 20, computeCapability: "9.0"},
		"dgxb200": {gpus: 8, name: "NVIDIA B200 180GB HBM3e", totalBytes: 184320 << 20, computeCapability: "10.0"},
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
	var all, single []setting
	for _, part := range parts[1:] {
		set, err := parseSetting(part, b)
		if err != nil {
			return nil, err
		}
		if seen[set.key] {
			return nil, fmt.Errorf("%s is set twice", set.key)
		}
		seen[set.key] = true
		switch {
		case set.key == "file":
			s.path = set.path
		case set.index < 0:
			all = append(all, set)
		default:
			single = append(single, set)
		}
	}
	// One device's own setting wins over that of all, whatever their order.
	for _, set := range append(all, single...) {
		for i := range s.list {
			if set.index < 0 || set.index == i {
				s.list[i].FreeBytes = set.free
				s.list[i].UsedBytes = s.list[i].TotalBytes - set.free
			}
		}
	}
	if s.path != "" {
		if err := s.reload(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// setting is one "free=SIZE" (index -1), "free.INDEX=SIZE" or "file=PATH".
type setting struct {
	key   string
	index int
	free  uint64
	path  string
}

func parseSetting(part string, b board) (setting, error) {
	key, value, ok := strings.Cut(part, "=")
	if !ok {
		return setting{}, fmt.Errorf("setting %q has no value; want free=SIZE, free.INDEX=SIZE or file=PATH", part)
	}
	set := setting{key: key, index: -1}
	if key == "file" {
		if value == "" {
			return setting{}, errors.New("file is empty; want file=PATH")
		}
		set.path = value
		return set, nil
	}
	if key != "free" {
		number, isIndexed := strings.CutPrefix(key, "free.")
		if !isIndexed {
			return setting{}, fmt.Errorf("setting %q does not exist; want free=SIZE, free.INDEX=SIZE or file=PATH", key)
		}
		index, err := strconv.Atoi(number)
		if err != nil || index < 0 || index >= b.gpus || strconv.Itoa(index) != number {
			return setting{}, fmt.Errorf("%s: this board has no GPU %q; its indexes are 0 to %d", key, number, b.gpus-1)
		}
		set.index = index
	}
	free, err := ParseSize(value)
	if err != nil {
		return setting{}, fmt.Errorf("%s: %w", key, err)
	}
	if free > b.totalBytes {
		return setting{}, fmt.Errorf("%s: %s is more than the %s that one of these GPUs has", key, value, FormatSize(b.totalBytes))
	}
	set.free = free
	return set, nil
}

// devices are the board's GPUs, idle.
func (b board) devices(boardName string) []Device {
	list := make([]Device, b.gpus)
	for i := range list {
		list[i] = Device{
			Index: i, UUID: simulatedUUID(boardName, i), Name: b.name, ComputeCapability: b.computeCapability,
			TotalBytes: b.totalBytes, FreeBytes: b.totalBytes - idleBytes, UsedBytes: idleBytes,
			State: StateOK, ComputeMode: ComputeDefault, Processes: []Process{},
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
