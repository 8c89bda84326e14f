package gpu

import (
	"fmt"
	"strings"
)

// Open makes a reader for the devices that spec names:
//
//	auto                                            NVML; the default, also for ""
//	none                                            no devices: ErrNoDriver
//	simulated:BOARD[,free=SIZE][,free.INDEX=SIZE]   a board from this package's tables
//
// BOARD is one of dgxa100, dgxb200, dgxh100 and dgxh200, each of eight GPUs.
// free sets the free memory of every device, free.INDEX that of one; otherwise
// it is the total less 1 GiB. A SIZE is as ParseSize reads it.
//
// Open touches no driver: whether there is one is told by Reader.Devices, which
// also notices one that comes later. A bad spec is an error that names the part,
// its value and what would be right.
func Open(spec string) (*Reader, error) {
	kind, rest, hasRest := strings.Cut(spec, ":")
	switch {
	case spec == "" || spec == "auto":
		return newReader(newNVML()), nil
	case spec == "none":
		return newReader(absent{}), nil
	case kind == "simulated" && hasRest:
		b, err := parseSimulated(rest)
		if err != nil {
			return nil, fmt.Errorf("parse GPU spec %q: %w", spec, err)
		}
		return newReader(b), nil
	}
	return nil, fmt.Errorf("parse GPU spec %q: want auto, none or simulated:BOARD[,free=SIZE][,free.INDEX=SIZE] with BOARD one of %s",
		spec, strings.Join(boardNames(), ", "))
}

// absent is the backend of "none".
type absent struct{}

func (absent) open() error                { return fmt.Errorf("GPUs are switched off: %w", ErrNoDriver) }
func (absent) devices() ([]Device, error) { return nil, ErrNoDriver }
func (absent) close() error               { return nil }
