package main

import (
	"context"
	"fmt"
	"os/exec"

	"github.com/stoker-project/stoker/gpu"
)

// readGPUsArgument, alone on the command line, makes stoker read the GPUs for
// the stoker that started it. It is no command: people want `stoker gpus`.
const readGPUsArgument = "__read-gpus"

// openGPUs opens the GPUs that spec names. NVML is loaded in another process: the
// agent outlives drivers, and a library that crashes ends no command with a dump.
func openGPUs(spec string) (*gpu.Reader, error) {
	r, err := gpu.OpenInChild(spec, func(ctx context.Context) *exec.Cmd {
		// This very binary, whatever lies at its path by now.
		cmd := exec.CommandContext(ctx, "/proc/self/exe", readGPUsArgument)
		cmd.Args[0] = "stoker"
		return cmd
	})
	if err != nil {
		return nil, fmt.Errorf("--gpus: %w", err)
	}
	return r, nil
}
