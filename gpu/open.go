package gpu

import (
	"context"
	"fmt"
	"strings"
)

// Open makes a reader for the devices that spec names:
//
//	auto                        NVML; the default, also for ""
//	none                        no devices: ErrNoDriver
//	simulated:BOARD[,SETTING]   a board from this package's tables
//
// BOARD is one of dgxa100, dgxb200, dgxh100 and dgxh200, or a10, a100-80gb, l4,
// l40s, rtx6000ada and rtxpro6000, each of eight GPUs, or gb10, which has one. A
// SETTING is total=SIZE or free=SIZE for every GPU, total.INDEX=SIZE or
// free.INDEX=SIZE for one, or file=PATH. Free is the total less 1 GiB where
// nothing else is set. A SIZE is as ParseSize reads it.
//
// The file at PATH (which has no comma in it) says more, and what changes over
// time. It is YAML or JSON:
//
//	all: {free: 100GiB}             # every device
//	devices:                        # some, by index; they win over all
//	  0:
//	    free: 20GiB                 # the rest is used
//	    processes:                  # default: none; or unknown, as in many pods
//	    - {pid: 4711, used: 100GiB} # used may be left out: unknown; mps: true
//	  1: {state: lost}              # ok, lost, reset-required, no-permission, unknown
//	  2: {computeMode: prohibited}  # default, exclusive-process, prohibited
//	  3: {ecc: {uncorrectedErrors: 1, repairPending: true, repairFailed: false}}
//	  4: {fabric: not-started}      # in-progress, completed, failed
//	  5:
//	    mig:                        # a list of parts; false takes the GPU out of MIG mode
//	    - {profile: 3g.71gb, memory: 69GiB, free: 10GiB}
//	error: none                     # no-driver, version-mismatch, no-permission, timeout, unknown-error
//	steps:                          # what comes later, laid over what was before
//	- after: 30s                    # since the file was read with this content
//	  devices: {1: {state: ok}}
//
// Every field may be left out. The file is looked at on each read: what was
// changed is seen at once, and starts its steps anew. While it cannot be used,
// reads fail with every bad field and its value; Open does so at the start.
//
// Open touches no driver: whether there is one is told by Reader.Devices, which
// also notices one that comes later. A bad spec is an error that names the part,
// its value and what would be right.
func Open(spec string) (*Reader, error) { return open(spec, newNVML) }

// OpenInChild is Open for a program that runs for long: instead of loading NVML
// itself, it has each read done by a short process. So it can follow a driver
// that is upgraded, end a call that hangs, survive a library that crashes, and
// it does not hold the driver between the reads. command makes that process.
//
// A process that even SIGKILL does not end, because it waits in the kernel for
// the driver, is left behind, at most one at a time; reads fail with ErrTimeout
// until it is gone. Where this binary cannot open NVML at all, none is started.
func OpenInChild(spec string, command Command) (*Reader, error) {
	return open(spec, func() backend { return newNVMLInChild(command) })
}

func open(spec string, auto func() backend) (*Reader, error) {
	kind, rest, hasRest := strings.Cut(spec, ":")
	switch {
	case spec == "" || spec == "auto":
		return newReader(auto()), nil
	case spec == "none":
		return newReader(absent{}), nil
	case kind == "simulated" && hasRest:
		b, err := parseSimulated(rest)
		if err != nil {
			return nil, fmt.Errorf("parse GPU spec %q: %w", spec, err)
		}
		return newReader(b), nil
	}
	return nil, fmt.Errorf("parse GPU spec %q: want auto, none or simulated:BOARD[,total=SIZE][,free=SIZE][,free.INDEX=SIZE][,file=PATH] with BOARD one of %s",
		spec, strings.Join(boardNames(), ", "))
}

// absent is the backend of "none".
type absent struct{}

func (absent) open() error                               { return fmt.Errorf("GPUs are switched off: %w", ErrNoDriver) }
func (absent) devices(context.Context) ([]Device, error) { return nil, ErrNoDriver }
func (absent) close() error                              { return nil }
