package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// verifyOutput is one model in `stoker verify -o json`.
type verifyOutput struct {
	Name     string `json:"name"`
	Revision string `json:"revision"`
	OK       bool   `json:"ok"`
	store.VerifyResult
}

func (c *cli) verifyCommand() *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use:   "verify [NAME...]",
		Short: "Hash every byte of the models in a store",
		Long: `Hash every byte of the named models, or of all, and compare it with what was
verified when they were pulled. In a writable store a bad blob is quarantined,
and every model that uses it is withdrawn; the next pull fetches just that.
Ends with exit code 4 if anything was wrong.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkOutput(output), checkNames(args)); err != nil {
				return err
			}
			s, err := openExisting(dir)
			if err != nil {
				return err
			}
			return c.verify(cmd.Context(), s, args, output)
		},
	}
	storeFlag(cmd, &dir)
	outputFlag(cmd, &output)
	return cmd
}

func (c *cli) verify(ctx context.Context, s *store.Store, names []string, output string) error {
	targets, withdrawn, err := verifyTargets(s, names)
	if err != nil {
		return err
	}
	results := []verifyOutput{}
	for _, m := range withdrawn {
		results = append(results, verifyOutput{Name: m.Name, Revision: m.Revision, VerifyResult: store.VerifyResult{
			Problems: []store.Problem{{Reason: "withdrawn by an earlier verify; pull it again"}},
		}})
	}
	for _, m := range targets {
		res, err := s.Verify(ctx, m, nil)
		if err != nil {
			return err
		}
		results = append(results, verifyOutput{Name: m.Name, Revision: m.Revision, OK: len(res.Problems) == 0, VerifyResult: res})
	}
	if err := c.printVerify(results, output); err != nil {
		return err
	}
	var bad []string
	for _, r := range results {
		if !r.OK && !slices.Contains(bad, r.Name) {
			bad = append(bad, r.Name)
		}
	}
	if len(bad) > 0 {
		then := "pull them again to fetch just what is wrong"
		if !s.Writable() {
			then = "the store is read-only, so nothing was changed"
		}
		return fmt.Errorf("verify %v in %s: %w; %s", bad, s.Dir(), fetcher.ErrCorrupt, then)
	}
	return nil
}

// verifyTargets are all published revisions of the named models, or of all,
// and those that are withdrawn.
func verifyTargets(s *store.Store, names []string) (targets, withdrawn []store.Manifest, err error) {
	if len(names) == 0 {
		if names, err = s.Names(); err != nil {
			return nil, nil, err
		}
	}
	gone, err := s.Withdrawn()
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		revisions, err := s.Revisions(name)
		if err != nil {
			return nil, nil, err
		}
		before := len(withdrawn)
		for _, m := range gone {
			if m.Name == name {
				withdrawn = append(withdrawn, m)
			}
		}
		if len(revisions) == 0 && len(withdrawn) == before {
			if damaged, err := s.Damaged(name); err != nil || damaged {
				return nil, nil, errors.Join(err, fmt.Errorf("verify %s: its manifest is damaged: %w; pull it again", name, fetcher.ErrCorrupt))
			}
			return nil, nil, unknownModel(name, s)
		}
		targets = append(targets, revisions...)
	}
	return targets, withdrawn, nil
}

func (c *cli) printVerify(results []verifyOutput, output string) error {
	if output == "json" {
		return printJSON(c.stdout, map[string]any{"models": results})
	}
	rows := [][]string{{"NAME", "REVISION", "FILES", "SIZE", "RESULT"}}
	for _, r := range results {
		result := "ok"
		if r.Unvouched > 0 {
			result = fmt.Sprintf("ok; the source vouches for no digest of %d files", r.Unvouched)
		}
		if !r.OK {
			result = fmt.Sprintf("%d bad", len(r.Problems))
		}
		rows = append(rows, []string{r.Name, short(r.Revision), fmt.Sprint(r.Files), humanBytes(r.Bytes), result})
	}
	if err := printTable(c.stdout, rows); err != nil {
		return err
	}
	for _, r := range results {
		for _, p := range r.Problems {
			fmt.Fprintln(c.stdout, strings.Join(strings.Fields(r.Name+": "+p.Path+" "+p.Reason), " "))
		}
	}
	return nil
}
