package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher/store"
)

func (c *cli) rmCommand() *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a model from a store",
		Long: `Remove a model from a store, with all its revisions. It stops being published
first. Its bytes stay until stoker gc, because another model may share them.
While the model is pulled it waits for that to end, and says so.

` + localExitCodes,
		Example: "  stoker rm qwen2.5-7b-instruct && stoker gc",
		Args:    exactArg("a model's NAME; stoker ls shows them"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(checkOutput(output), checkNames(args)); err != nil {
				return err
			}
			s, err := openToChange(dir)
			if err != nil {
				return err
			}
			s.OnWait(c.tellWait)
			if err := s.Remove(cmd.Context(), args[0]); err != nil {
				if errors.Is(err, store.ErrNotFound) || !holdsStore(dir) {
					return unknownModel(args[0], s)
				}
				return err
			}
			if output == "json" {
				return printJSON(c.json, map[string]any{"removed": args[0]})
			}
			_, err = fmt.Fprintf(c.stdout, "removed %s; stoker gc frees the disk\n", args[0])
			return err
		},
	}
	storeFlag(cmd, &dir)
	outputFlag(cmd, &output)
	return cmd
}

// localExitCodes are those of commands that ask no source.
const localExitCodes = `Exit codes: 0 done, 1 failed, 2 wrong usage or no such model or store,
130 interrupted.`
