package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/agent/fleet"
)

func (c *cli) explainCommand() *cobra.Command {
	var f clusterFlags
	var output string
	cmd := &cobra.Command{
		Use:   "explain NODE MODEL",
		Short: "Say why a node is not warm for a model, and what to do",
		Long: `Say why MODEL is or is not warm on NODE, what to do about it, and what that was
made of: state, progress, reason and next attempt, labels as they stand, GPUs,
store and model list. Of a warm model it says whether a replica could start now,
and if not, why.

It reads one Node, and others only where that one does not know MODEL: your
account needs the right to list nodes. With the right to get leases in the agents'
namespace, it also shows what had no room on a Node with many models.

` + fleetExitCodes,
		Example: `  stoker explain gpu-1 qwen2.5-7b-instruct
  stoker explain gpu-1 qwen2.5-7b-instruct -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) < 2:
				return fmt.Errorf("stoker explain needs a NODE and a MODEL, like gpu-1 qwen2.5-7b-instruct")
			case len(args) > 2:
				return fmt.Errorf("stoker explain takes two arguments, but %q came after them", args[2])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(checkOutput(output), checkModelName("MODEL", args[1])); err != nil {
				return err
			}
			cfg, err := c.cluster(&f)
			if err != nil {
				return err
			}
			one, err := fleet.ListOne(cmd.Context(), cfg, args[0], args[1])
			if err != nil {
				return err
			}
			c.incomplete(one)
			e, err := one.Explain(args[0], args[1])
			if err != nil {
				return unknownIsUsage(err)
			}
			if output == "json" {
				return printJSON(c.json, e)
			}
			return e.Write(c.stdout)
		},
	}
	f.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}
