package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher/store"
)

func (c *cli) gcCommand() *cobra.Command {
	var dir, output string
	var olderThan time.Duration
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Collect what nothing in a store refers to",
		Long: `Remove from a store what no published model uses: files' content (blobs),
abandoned transfers, quarantined content. Transfers under way, and those
interrupted less than --older-than ago, are kept, so that the next pull goes on
where it was. It is safe to run while models are pulled or read.

` + localExitCodes,
		Example: `  stoker gc
  stoker gc --older-than 0s     Give up what unfinished pulls have brought, too.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var ageErr error
			if olderThan < 0 {
				ageErr = fmt.Errorf("--older-than %s is negative; it takes a duration like 24h", olderThan)
			}
			if err := c.check(ageErr, checkOutput(output)); err != nil {
				return err
			}
			s, err := openToChange(dir)
			if err != nil {
				return err
			}
			s.OnWait(c.tellWait)
			var res store.GCResult
			if holdsStore(dir) {
				if res, err = s.GC(cmd.Context(), olderThan); err != nil {
					return fmt.Errorf("collect in %s: %w", s.Dir(), err)
				}
			}
			return c.printCollected(res, output)
		},
	}
	storeFlag(cmd, &dir)
	outputFlag(cmd, &output)
	cmd.Flags().DurationVar(&olderThan, "older-than", 24*time.Hour, "keep unfinished transfers that are younger than this `AGE`")
	return cmd
}

func (c *cli) printCollected(res store.GCResult, output string) error {
	if output == "json" {
		return printJSON(c.json, res)
	}
	text := fmt.Sprintf("removed %s and %s, %s\n", count(res.RemovedBlobs, "blob"), count(res.RemovedPartials, "transfer"), humanBytes(res.RemovedBytes))
	if res.KeptBytes > 0 {
		text += fmt.Sprintf("kept %s for unfinished pulls and repairs; --older-than 0s collects what unfinished pulls have\n", humanBytes(res.KeptBytes))
	}
	_, err := fmt.Fprint(c.stdout, text)
	return err
}
