package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher/store"
)

func (c *cli) rmCommand() *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a model from a store",
		Long: `Remove a model, all its revisions included, from a store. It stops being
published first. Its bytes stay until stoker gc: another model may share them.`,
		Args: exactArgs("a model's NAME; stoker ls shows them"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkOutput(output), checkNames(args)); err != nil {
				return err
			}
			s, err := openExisting(dir)
			if err != nil {
				return err
			}
			if err := s.Remove(cmd.Context(), args[0]); err != nil {
				if errors.Is(err, store.ErrNotFound) {
					return unknownModel(args[0], s)
				}
				return err
			}
			if output == "json" {
				return printJSON(c.stdout, map[string]any{"removed": args[0]})
			}
			_, err = fmt.Fprintf(c.stdout, "removed %s; stoker gc frees the disk\n", args[0])
			return err
		},
	}
	storeFlag(cmd, &dir)
	outputFlag(cmd, &output)
	return cmd
}

func (c *cli) gcCommand() *cobra.Command {
	var dir, output string
	var olderThan time.Duration
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Collect what nothing in a store refers to",
		Long: `Remove from a store what no published model uses: blobs, abandoned transfers,
quarantined content. Transfers under way, and those interrupted less than
--older-than ago, are kept, so that the next pull goes on where it was.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if olderThan < 0 {
				return usage(fmt.Errorf("--older-than %s is negative", olderThan))
			}
			s, err := openExisting(dir)
			if err != nil {
				return err
			}
			res, err := s.GC(cmd.Context(), olderThan)
			if err != nil {
				return fmt.Errorf("collect in %s: %w", s.Dir(), err)
			}
			if output == "json" {
				return printJSON(c.stdout, res)
			}
			fmt.Fprintf(c.stdout, "removed %d blobs and %d transfers, %s\n", res.RemovedBlobs, res.RemovedPartials, humanBytes(res.RemovedBytes))
			if res.KeptBytes > 0 {
				fmt.Fprintf(c.stdout, "kept %s for unfinished pulls; --older-than 0s collects them too\n", humanBytes(res.KeptBytes))
			}
			return nil
		},
	}
	storeFlag(cmd, &dir)
	outputFlag(cmd, &output)
	cmd.Flags().DurationVar(&olderThan, "older-than", 24*time.Hour, "keep unfinished transfers that are younger")
	return cmd
}
