package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/gpu"
)

func (c *cli) gpusCommand() *cobra.Command {
	var spec, output string
	cmd := &cobra.Command{
		Use:   "gpus",
		Short: "Show this machine's GPUs and their memory",
		Long: `Show this machine's GPUs and their memory, as NVIDIA's driver tells them. With
-o json, sizes are in bytes.

Where there is no GPU, --gpus simulated:BOARD stands in: a machine of eight
GPUs, each with all but 1 GiB free unless free= says otherwise.

Exit codes: 0 done, 1 no driver or no answer from it, 2 wrong usage,
130 interrupted.`,
		Example: `  stoker gpus
  stoker gpus -o json
  stoker gpus --gpus simulated:dgxh200,free.0=20GiB`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			reader, gpusErr := openGPUs(spec)
			if err := c.check(gpusErr, checkOutput(output)); err != nil {
				return err
			}
			devices, err := readGPUs(cmd.Context(), reader, spec)
			if err != nil {
				return fmt.Errorf("%w; --gpus simulated:dgxh200 shows what it would look like", err)
			}
			if output == "json" {
				return printJSON(c.stdout, map[string]any{"devices": devices})
			}
			_, err = fmt.Fprint(c.stdout, gpu.Table(devices))
			return err
		},
	}
	gpusFlag(cmd, &spec)
	outputFlag(cmd, &output)
	return cmd
}

// gpusFlag adds --gpus.
func gpusFlag(cmd *cobra.Command, spec *string) {
	cmd.Flags().StringVar(spec, "gpus", "auto",
		"read GPUs from `SPEC`: auto (NVML), none, or simulated:BOARD[,free=SIZE][,free.INDEX=SIZE] with dgxa100, dgxh100, dgxh200 or dgxb200")
}

func openGPUs(spec string) (*gpu.Reader, error) {
	r, err := gpu.Open(spec)
	if err != nil {
		return nil, fmt.Errorf("--gpus: %w", err)
	}
	return r, nil
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
