package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/gpu"
)

func (c *cli) gpusCommand() *cobra.Command {
	var spec, output string
	cmd := &cobra.Command{
		Use:   "gpus",
		Short: "Show this machine's GPUs and their memory",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := checkOutput(output); err != nil {
				return err
			}
			r, err := gpu.Open(spec)
			if err != nil {
				return usage(fmt.Errorf("--gpus: %w", err))
			}
			defer func() {
				if closeErr := r.Close(); err == nil {
					err = closeErr
				}
			}()
			devices, err := r.Devices(cmd.Context())
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
		"where GPUs are read from: auto (NVML), none, or simulated:BOARD[,free=SIZE][,free.INDEX=SIZE] with dgxa100, dgxh100, dgxh200 or dgxb200")
}
