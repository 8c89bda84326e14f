package gpu

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// script is what a file says of a board: the state at first, and the steps
// after it.
type script struct{ frames []frame }

// frame is what changes at a time; what it does not mention stays.
type frame struct {
	after   time.Duration
	all     override
	devices map[int]override
	// failure of the whole read, if setsFailure; nil ends one.
	failure     error
	setsFailure bool
}

// override is what is said of a device. Nil: nothing.
type override struct {
	path      string // where it stands, for errors
	profile   string // of parts only
	total     *uint64
	free      *uint64
	state     *State
	mode      *ComputeMode
	processes *processes
	ecc       *ECC
	fabric    *Fabric
	mig       *layout
}

type processes struct {
	unknown bool
	list    []Process
}

type layout struct {
	on    bool
	parts []override
}

// over is o with what is said later.
func (o override) over(later override) override {
	if later.path == "" {
		return o
	}
	o.path = later.path
	set(&o.free, later.free)
	set(&o.state, later.state)
	set(&o.mode, later.mode)
	set(&o.processes, later.processes)
	set(&o.ecc, later.ecc)
	set(&o.fabric, later.fabric)
	set(&o.mig, later.mig)
	return o
}

func set[T any](at **T, later *T) {
	if later != nil {
		*at = later
	}
}

// at is the board some time after the file was read, over what the spec says.
func (s script) at(elapsed time.Duration, base []Device) ([]Device, error) {
	var failure error
	for _, f := range s.frames {
		if f.after <= elapsed && f.setsFailure {
			failure = f.failure
		}
	}
	if failure != nil {
		return nil, fmt.Errorf("simulated: %w", failure)
	}
	return s.devices(elapsed, base)
}

// check finds at the start what could not be shown at any step.
func (s script) check(base []Device) error {
	for _, f := range s.frames {
		if _, err := s.devices(f.after, base); err != nil {
			return err
		}
	}
	return nil
}

func (s script) devices(elapsed time.Duration, base []Device) ([]Device, error) {
	merged := make([]override, len(base))
	for _, f := range s.frames {
		if f.after > elapsed {
			break
		}
		for i := range merged {
			merged[i] = merged[i].over(f.all).over(f.devices[i])
		}
	}
	var list []Device
	complaints := map[string]error{} // what is said of all is wrong once
	for i, d := range base {
		shown, err := merged[i].apply(d)
		if err != nil {
			complaints[err.Error()] = err
		}
		list = append(list, shown...)
	}
	var errs []error
	for _, text := range slices.Sorted(maps.Keys(complaints)) {
		errs = append(errs, complaints[text])
	}
	return list, errors.Join(errs...)
}

// apply is the device, and its parts if it is in MIG mode.
func (o override) apply(d Device) ([]Device, error) {
	if o.path == "" {
		return []Device{d}, nil
	}
	if o.ecc != nil {
		e := *o.ecc
		d.ECC = &e
	}
	if o.fabric != nil {
		d.Fabric = *o.fabric
	}
	if o.mig == nil || !o.mig.on {
		err := o.use(&d, idleBytes)
		return []Device{d}, err
	}
	return o.split(d)
}

// use sets who uses the device and how much of it. What nobody holds is free
// but for idle bytes, unless something else is said.
func (o override) use(d *Device, idle uint64) error {
	if o.mode != nil {
		d.ComputeMode = *o.mode
	}
	var held uint64
	if o.processes != nil {
		d.Processes = slices.Clone(o.processes.list)
		if o.processes.unknown {
			d.ProcessesReason = "simulated: the driver does not tell"
		}
		for _, p := range d.Processes {
			d.MPS = d.MPS || p.MPS
			if p.UsedBytes > d.TotalBytes-held {
				return fmt.Errorf("%s.processes: together they use more than the %s of the device", o.path, FormatSize(d.TotalBytes))
			}
			held += p.UsedBytes
		}
		if held > 0 {
			d.FreeBytes = d.TotalBytes - min(d.TotalBytes, held+idle)
		}
	}
	if o.free != nil {
		if *o.free > d.TotalBytes {
			return fmt.Errorf("%s.free: %d is more than the %d bytes of the device", o.path, *o.free, d.TotalBytes)
		}
		d.FreeBytes = *o.free
	}
	if d.TotalBytes-d.FreeBytes < held {
		return fmt.Errorf("%s: %s are free, but processes use %s of %s", o.path, FormatSize(d.FreeBytes), FormatSize(held), FormatSize(d.TotalBytes))
	}
	d.UsedBytes = d.TotalBytes - d.FreeBytes
	d.Conditions = d.conditions()
	if o.state != nil && *o.state != StateOK {
		*d = Device{
			Index: d.Index, UUID: d.UUID, Name: d.Name, ComputeCapability: d.ComputeCapability, MIG: d.MIG,
			State: *o.state, Reason: "simulated: " + string(*o.state),
		}
	}
	return nil
}

// split makes a GPU in MIG mode and its parts. A GPU that is lost has none.
func (o override) split(d Device) ([]Device, error) {
	whole := o
	whole.processes, whole.mode = nil, nil
	if err := whole.use(&d, idleBytes); err != nil {
		return nil, err
	}
	if d.State != StateOK {
		return []Device{d}, nil
	}
	d.State, d.Reason = StatePartitioned, "in MIG mode; its MIG devices take the work"
	d.ComputeMode, d.Processes, d.ProcessesReason = "", nil, "in MIG mode; its MIG devices have the processes"
	list := []Device{d}
	var given, used uint64
	for i, part := range o.mig.parts {
		if *part.total > d.TotalBytes-given {
			return nil, fmt.Errorf("%s.memory: the parts have together more than the %s of the GPU", part.path, FormatSize(d.TotalBytes))
		}
		given += *part.total
		m := Device{
			Index: d.Index, UUID: "MIG-" + uuidOf(fmt.Sprintf("%s %d", d.UUID, i)), Name: d.Name + " MIG " + part.profile,
			ComputeCapability: d.ComputeCapability, TotalBytes: *part.total, UsableBytes: *part.total, FreeBytes: *part.total,
			State: StateOK, ComputeMode: ComputeDefault, Processes: []Process{}, ECC: d.ECC,
			MIG: &MIG{ParentUUID: d.UUID, Index: i},
		}
		if err := part.use(&m, 0); err != nil {
			return nil, err
		}
		used += m.UsedBytes
		list = append(list, m)
	}
	if o.free == nil {
		list[0].FreeBytes = d.TotalBytes - min(d.TotalBytes, used+idleBytes)
		list[0].UsedBytes = d.TotalBytes - list[0].FreeBytes
	}
	return list, nil
}
