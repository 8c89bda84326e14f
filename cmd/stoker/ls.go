package main

import (
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// States of a model in `stoker ls`.
const (
	statePublished  = "published"
	stateSuperseded = "superseded" // an older revision that is still here
	stateWithdrawn  = "withdrawn"  // found wrong; the next pull repairs it
	stateDamaged    = "damaged"    // its manifest cannot be read
)

// modelOutput is one model in `stoker ls -o json`.
type modelOutput struct {
	Name     string `json:"name"`
	Source   string `json:"source"`
	Revision string `json:"revision"`
	// State is one of the state constants.
	State       string    `json:"state"`
	Bytes       int64     `json:"bytes"`
	Files       int       `json:"files"`
	Path        string    `json:"path"`
	PublishedAt time.Time `json:"publishedAt"`
}

func (c *cli) lsCommand() *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List what is in a store",
		Long: `List the models in a store, one line for each revision. STATE is one of
  published    It is whole, and pods can read it.
  superseded   An older revision that is still here.
  withdrawn    A verify found it wrong; the next pull repairs it.
  damaged      Its manifest cannot be read; the next pull writes it anew.

` + localExitCodes,
		Example: `  stoker ls
  stoker ls --store /var/lib/stoker -o json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := c.check(checkOutput(output)); err != nil {
				return err
			}
			s, err := openToRead(dir)
			if err != nil {
				return err
			}
			models, err := listModels(s)
			if err != nil {
				return err
			}
			return c.printModels(models, output)
		},
	}
	storeFlag(cmd, &dir)
	outputFlag(cmd, &output)
	return cmd
}

func (c *cli) printModels(models []modelOutput, output string) error {
	if output == "json" {
		return printJSON(c.json, map[string]any{"models": models})
	}
	rows := [][]string{{"NAME", "REVISION", "STATE", "SIZE", "FILES", "PUBLISHED", "SOURCE"}}
	for _, m := range models {
		if m.State == stateDamaged {
			rows = append(rows, []string{m.Name, "-", m.State, "-", "-", "-", "-"})
			continue
		}
		rows = append(rows, []string{
			m.Name, short(m.Revision), m.State, humanBytes(m.Bytes), strconv.Itoa(m.Files),
			m.PublishedAt.Local().Format("2006-01-02 15:04"), m.Source,
		})
	}
	return printTable(c.stdout, rows)
}

// listModels is everything in a store, by name; of each the published revision
// first.
func listModels(s *store.Store) ([]modelOutput, error) {
	models := []modelOutput{}
	add := func(m store.Manifest, state string) {
		models = append(models, modelOutput{
			Name: m.Name, Source: m.Source, Revision: m.Revision, State: state, Bytes: m.Bytes,
			Files: len(m.Files), Path: s.Path(m.Name, m.Revision), PublishedAt: m.PublishedAt,
		})
	}
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		current, err := s.Lookup(name)
		if err == nil {
			add(current, statePublished)
		} else if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, fetcher.ErrCorrupt) {
			return nil, err
		}
		revisions, err := s.Revisions(name)
		if err != nil {
			return nil, err
		}
		for _, old := range revisions {
			if old.Revision != current.Revision {
				add(old, stateSuperseded)
			}
		}
		damaged, err := s.Damaged(name)
		if err != nil {
			return nil, err
		}
		if len(damaged) > 0 {
			add(store.Manifest{Name: name}, stateDamaged)
		}
	}
	withdrawn, err := s.Withdrawn()
	if err != nil {
		return nil, err
	}
	for _, m := range withdrawn {
		add(m, stateWithdrawn)
	}
	return models, nil
}

// short is a revision as people read it.
func short(revision string) string { return revision[:min(12, len(revision))] }
