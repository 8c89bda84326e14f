package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/gpu"
)

type gpusFlags struct{ gpus, store, output string }

// gpusOutput is `stoker gpus -o json`.
type gpusOutput struct {
	Devices []gpu.Device `json:"devices"`
	// Fits is left out where no store was looked at.
	Fits []gpusFit `json:"fits,omitzero"`
}

func (c *cli) gpusCommand() *cobra.Command {
	var f gpusFlags
	cmd := &cobra.Command{
		Use:   "gpus",
		Short: "Show this machine's GPUs, their memory, and what fits",
		Long: `Show this machine's GPUs and their memory, as NVIDIA's driver tells them, with
the processes on them and what is the matter with them. A GPU whose state is
"blocked" answers, but can take no new work. With -o json, sizes are in bytes.

Where there is a store, it says of each model in it how many replicas vLLM could
start on these GPUs now, if started with its defaults and as few GPUs each as it
takes; stoker fit has the sum.

In a container the driver may hide processes; it says so where they may be
missing. Together with the PIDs they can be seen in the host's PID namespace.

With -o json, totalBytes is the memory that nvidia-smi reports, and usableBytes
what CUDA reports, of which vLLM takes its share: the total less what the driver
reserves.

Where there is no GPU, --gpus simulated:BOARD stands in: a machine of eight
GPUs (gb10: one), each with all but 1 GiB free unless free= says otherwise, and
with the memory of a real one unless total= does. The boards are dgxa100,
dgxb200, dgxh100, dgxh200, a10, a100-80gb, gb10, l4, l40s, rtx6000ada and
rtxpro6000. file= names a YAML file that says more, and is read again when it
changes:

  all: {free: 100GiB}
  devices:
    0: {free: 20GiB, processes: [{pid: 4711, used: 100GiB}]}
    1: {state: lost}            # ok, reset-required, no-permission, unknown
    2: {computeMode: prohibited}          # default, exclusive-process
    3: {ecc: {uncorrectedErrors: 1, repairPending: true}}
    4: {mig: [{profile: 3g.71gb, memory: 69GiB, free: 10GiB}]}
    5: {fabric: not-started}              # in-progress, completed, failed
  steps:                        # what changes later
  - after: 30s
    devices: {1: {state: ok}}

Exit codes: 0 done, 1 no driver or no answer from it, 2 wrong usage,
130 interrupted.`,
		Example: `  stoker gpus
  stoker gpus --store /var/lib/stoker -o json
  stoker gpus --gpus simulated:dgxh200,free.0=20GiB
  stoker gpus --gpus simulated:l4,total=20GiB
  stoker gpus --gpus simulated:dgxh200,file=board.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.gpus(cmd, f) },
	}
	gpusFlag(cmd, &f.gpus)
	storeFlag(cmd, &f.store)
	outputFlag(cmd, &f.output)
	return cmd
}

func (c *cli) gpus(cmd *cobra.Command, f gpusFlags) error {
	reader, gpusErr := openGPUs(f.gpus)
	if err := c.check(gpusErr, checkOutput(f.output)); err != nil {
		return err
	}
	s, err := storeToFit(f.store, cmd.Flags().Changed("store"))
	if err != nil {
		return err
	}
	devices, err := readGPUs(cmd.Context(), reader, f.gpus)
	if err != nil {
		return fmt.Errorf("%w; --gpus simulated:dgxh200 shows what it would look like", err)
	}
	out := gpusOutput{Devices: devices}
	if s != nil {
		if out.Fits, err = fitModels(s, devices); err != nil {
			return err
		}
	}
	if f.output == "json" {
		return printJSON(c.json, out)
	}
	if _, err := fmt.Fprint(c.stdout, gpu.Table(devices)); err != nil {
		return err
	}
	if len(out.Fits) == 0 {
		return nil
	}
	fmt.Fprintln(c.stdout)
	return printTable(c.stdout, fitsTable(out.Fits))
}

// gpusFlag adds --gpus.
func gpusFlag(cmd *cobra.Command, spec *string) {
	cmd.Flags().StringVar(spec, "gpus", "auto",
		"read GPUs from `SPEC`: auto (NVML), none, or simulated:BOARD[,total=SIZE][,free=SIZE][,free.INDEX=SIZE][,file=PATH] with dgxa100, dgxh100, dgxh200, l4 or others (stoker gpus --help)")
}

// readGPUs reads the devices once. With "none" there are none, which is no
// failure: it was asked for.
func readGPUs(ctx context.Context, r *gpu.Reader, spec string) ([]gpu.Device, error) {
	defer r.Close() // its error changes nothing in what was read
	devices, err := r.Devices(ctx)
	if devices == nil {
		devices = []gpu.Device{}
	}
	if spec == "none" && errors.Is(err, gpu.ErrNoDriver) {
		err = nil
	}
	return devices, err
}
