package gpu

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUsable(t *testing.T) {
	ok := Device{State: StateOK, TotalBytes: 80 << 30, FreeBytes: 79 << 30, ComputeMode: ComputeDefault, Processes: []Process{}}
	with := func(change func(*Device)) Device {
		d := ok
		change(&d)
		return d
	}
	one := []Process{{PID: 4711, UsedBytes: 1 << 30, UsedKnown: true}}
	tests := map[string]struct {
		device Device
		usable bool
		want   []ConditionType
	}{
		"nothing is the matter":         {ok, true, nil},
		"processes in the default mode": {with(func(d *Device) { d.Processes = one }), true, nil},
		"lost":                          {Device{State: StateLost, Reason: "gone"}, false, nil},
		"lost, no reason":               {Device{State: StateLost}, false, nil},
		"partitioned":                   {Device{State: StatePartitioned}, false, nil},
		"prohibited":                    {with(func(d *Device) { d.ComputeMode = ComputeProhibited }), false, []ConditionType{ConditionProhibited}},
		"exclusive and idle":            {with(func(d *Device) { d.ComputeMode = ComputeExclusive }), true, []ConditionType{ConditionExclusive}},
		"exclusive and taken": {
			with(func(d *Device) { d.ComputeMode, d.Processes = ComputeExclusive, one }), false, []ConditionType{ConditionExclusive},
		},
		"exclusive by thread and taken": {
			with(func(d *Device) { d.ComputeMode, d.Processes = ComputeExclusiveThread, one }), false, []ConditionType{ConditionExclusive},
		},
		"exclusive and shared by MPS": {
			with(func(d *Device) { d.ComputeMode, d.Processes, d.MPS = ComputeExclusive, one, true }), true, []ConditionType{ConditionExclusive},
		},
		"exclusive, processes unknown: no guess": {
			with(func(d *Device) { d.ComputeMode, d.Processes = ComputeExclusive, nil }), true, []ConditionType{ConditionExclusive},
		},
		"exclusive, a process that may be the server of MPS: no guess": {
			with(func(d *Device) { d.ComputeMode, d.Processes, d.ProcessesPartial = ComputeExclusive, one, true }), true, []ConditionType{ConditionExclusive},
		},
		"taken, and to be reset": {
			with(func(d *Device) { d.ComputeMode, d.Processes, d.Recovery = ComputeExclusive, one, RecoveryReset }), false,
			[]ConditionType{ConditionExclusive, ConditionRecovery},
		},
		"uncorrected errors, repaired or contained": {
			with(func(d *Device) { d.ECC = &ECC{UncorrectedErrors: 1, RepairKnown: true} }), true, []ConditionType{ConditionUncorrectedErrors},
		},
		"uncorrected errors, repair pending": {
			with(func(d *Device) { d.ECC = &ECC{UncorrectedErrors: 1, RepairPending: true} }), false, []ConditionType{ConditionUncorrectedErrors},
		},
		"uncorrected errors, repair pending, the driver needs no reset": {
			with(func(d *Device) { d.ECC, d.Recovery = &ECC{UncorrectedErrors: 1, RepairPending: true}, RecoveryNone }), true,
			[]ConditionType{ConditionUncorrectedErrors},
		},
		"uncorrected errors, repair pending, the driver wants a reset": {
			with(func(d *Device) {
				d.ECC, d.Recovery = &ECC{UncorrectedErrors: 1, RepairPending: true}, RecoveryDrainAndReset
			}), false,
			[]ConditionType{ConditionRecovery, ConditionUncorrectedErrors},
		},
		"repair pending after corrected errors": {
			with(func(d *Device) { d.ECC = &ECC{RepairPending: true} }), true, []ConditionType{ConditionRepairPending},
		},
		"repair failed": {with(func(d *Device) { d.ECC = &ECC{RepairFailed: true} }), true, []ConditionType{ConditionRepairFailed}},
		"no errors":     {with(func(d *Device) { d.ECC = &ECC{UncorrectedKnown: true, RepairKnown: true} }), true, nil},
		"reset":         {with(func(d *Device) { d.Recovery = RecoveryReset }), false, []ConditionType{ConditionRecovery}},
		"reboot":        {with(func(d *Device) { d.Recovery = RecoveryReboot }), false, []ConditionType{ConditionRecovery}},
		"bus reset":     {with(func(d *Device) { d.Recovery = RecoveryBusReset }), false, []ConditionType{ConditionRecovery}},
		"drain peers":   {with(func(d *Device) { d.Recovery = RecoveryDrainPeers }), true, []ConditionType{ConditionRecovery}},
		"unknown to us": {with(func(d *Device) { d.Recovery = "action-99" }), true, []ConditionType{ConditionRecovery}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := test.device
			d.Conditions = d.conditions()
			var got []ConditionType
			for _, c := range d.Conditions {
				if c.Reason == "" {
					t.Errorf("%s has no reason", c.Type)
				}
				got = append(got, c.Type)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			if want := strings.HasSuffix(name, "and taken"); d.Taken() != want {
				t.Errorf("Taken() = %t; want %t", d.Taken(), want)
			}
			if d.Usable() != test.usable || (d.Obstacle() == "") != test.usable {
				t.Errorf("Usable() = %t, Obstacle() = %q; want %t", d.Usable(), d.Obstacle(), test.usable)
			}
		})
	}
}
