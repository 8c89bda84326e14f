package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/printable"
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
and every model that uses it is withdrawn; the next pull fetches just that. A
read-only store is left as it is. A model that is removed meanwhile, here or on
another machine that has the volume, is not wrong.

Exit codes: 0 all is right, 1 failed, 2 wrong usage or no such model or store,
4 something is wrong, 130 interrupted.`,
		Example: `  stoker verify
  stoker verify qwen2.5-7b-instruct -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(checkOutput(output), checkNames(args)); err != nil {
				return err
			}
			s, err := openToChange(dir)
			if err != nil {
				return err
			}
			return c.verify(cmd.Context(), s, slices.Compact(slices.Sorted(slices.Values(args))), output)
		},
	}
	storeFlag(cmd, &dir)
	outputFlag(cmd, &output)
	return cmd
}

func (c *cli) verify(ctx context.Context, s *store.Store, names []string, output string) error {
	targets, results, err := listTargets(s, names)
	if err != nil {
		return err
	}
	return c.verifyTargets(ctx, s, targets, results, names, output)
}

// verifyTargets hashes the targets and adds what it finds to what is known. What
// was removed since they were listed is not wrong; of names it is told.
func (c *cli) verifyTargets(ctx context.Context, s *store.Store, targets []store.Manifest, results []verifyOutput, names []string, output string) error {
	for _, m := range targets {
		res, err := c.verifyOne(ctx, s, m)
		if errors.Is(err, store.ErrNotFound) {
			if slices.Contains(names, m.Name) {
				c.note(fmt.Sprintf("%s (revision %s) was removed while it was verified", m.Name, short(m.Revision)))
			}
			continue
		}
		if err != nil {
			return err
		}
		results = append(results, verifyOutput{Name: m.Name, Revision: m.Revision, OK: len(res.Problems) == 0, VerifyResult: res})
	}
	slices.SortStableFunc(results, func(a, b verifyOutput) int { return strings.Compare(a.Name, b.Name) })
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
		then := "pull again what is wrong: only bad files are fetched"
		if !s.Writable() {
			then = "this user cannot write to the store, so nothing was changed"
		}
		return fmt.Errorf("verify %s in %s: %w; %s", strings.Join(bad, ", "), s.Dir(), fetcher.ErrCorrupt, then)
	}
	return nil
}

// verifyOne hashes one revision and shows how far it is: that can take minutes.
func (c *cli) verifyOne(ctx context.Context, s *store.Store, m store.Manifest) (store.VerifyResult, error) {
	show, err := c.newProgress("auto")
	if err != nil {
		return store.VerifyResult{}, err
	}
	p := fetcher.Progress{Phase: "verifying " + m.Name, BytesTotal: m.Bytes}
	show.update(p)
	res, err := s.Verify(ctx, m, func(n int) {
		p.BytesDone += int64(n)
		show.update(p)
	})
	if bar, ok := show.(*barProgress); ok {
		bar.finish(err == nil)
	}
	return res, err
}

// listTargets are all published revisions of the named models, or of all,
// and what is known to be wrong without hashing.
func listTargets(s *store.Store, names []string) (targets []store.Manifest, wrong []verifyOutput, err error) {
	all := len(names) == 0
	withdrawn, err := s.Withdrawn()
	if err != nil {
		return nil, nil, err
	}
	if all {
		if names, err = s.Names(); err != nil {
			return nil, nil, err
		}
	}
	wrong = []verifyOutput{}
	note := func(name, revision, reason string) {
		wrong = append(wrong, verifyOutput{Name: name, Revision: revision, VerifyResult: store.VerifyResult{
			Problems: []store.Problem{{Reason: reason}},
		}})
	}
	known := map[string]bool{}
	for _, m := range withdrawn {
		if all || slices.Contains(names, m.Name) {
			known[m.Name] = true
			note(m.Name, m.Revision, "withdrawn by an earlier verify; pull it again")
		}
	}
	for _, name := range names {
		revisions, err := s.Revisions(name)
		if err != nil {
			return nil, nil, err
		}
		damaged, err := s.Damaged(name)
		if err != nil {
			return nil, nil, err
		}
		if len(damaged) > 0 {
			note(name, "", "its manifest cannot be read; pull it again")
		}
		if len(damaged) == 0 && len(revisions) == 0 && !known[name] {
			_, err := s.Lookup(name)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, nil, err // such as a format that only a newer stoker knows
			}
			if !all {
				return nil, nil, unknownModel(name, s)
			}
		}
		targets = append(targets, revisions...)
	}
	return targets, wrong, nil
}

func (c *cli) printVerify(results []verifyOutput, output string) error {
	if output == "json" {
		return printJSON(c.json, map[string]any{"models": results})
	}
	rows := [][]string{{"NAME", "REVISION", "FILES", "SIZE", "RESULT"}}
	for _, r := range results {
		result := "ok"
		if r.Unvouched > 0 {
			result = fmt.Sprintf("ok; the source vouches for no digest of %s", count(r.Unvouched, "file"))
		}
		if !r.OK {
			result = fmt.Sprintf("%d bad", len(r.Problems))
		}
		revision := short(r.Revision)
		if revision == "" {
			revision = "-"
		}
		rows = append(rows, []string{r.Name, revision, strconv.Itoa(r.Files), humanBytes(r.Bytes), result})
	}
	if err := printTable(c.stdout, rows); err != nil {
		return err
	}
	for _, r := range results {
		for _, p := range r.Problems {
			line := strings.TrimSpace(r.Name + ": " + printable.Line(strings.TrimSpace(p.Path+" "+p.Reason)))
			if _, err := fmt.Fprintln(c.stdout, line); err != nil {
				return err
			}
		}
	}
	return nil
}
