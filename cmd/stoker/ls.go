package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher/store"
)

// modelOutput is one model in `stoker ls -o json`.
type modelOutput struct {
	Name     string `json:"name"`
	Source   string `json:"source"`
	Revision string `json:"revision"`
	// State is published, superseded (an older revision that is still here)
	// or withdrawn (found wrong; the next pull repairs it).
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
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			s, err := openExisting(dir)
			if err != nil {
				return err
			}
			models, err := listModels(s)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(c.stdout, map[string]any{"models": models})
			}
			rows := [][]string{{"NAME", "REVISION", "STATE", "SIZE", "FILES", "PUBLISHED", "SOURCE"}}
			for _, m := range models {
				rows = append(rows, []string{
					m.Name, short(m.Revision), m.State, humanBytes(m.Bytes), strconv.Itoa(m.Files),
					m.PublishedAt.Local().Format("2006-01-02 15:04"), m.Source,
				})
			}
			return printTable(c.stdout, rows)
		},
	}
	storeFlag(cmd, &dir)
	outputFlag(cmd, &output)
	return cmd
}

func listModels(s *store.Store) ([]modelOutput, error) {
	models := []modelOutput{}
	add := func(m store.Manifest, state string) {
		models = append(models, modelOutput{
			Name: m.Name, Source: m.Source, Revision: m.Revision, State: state, Bytes: m.Bytes,
			Files: len(m.Files), Path: s.Path(m.Name, m.Revision), PublishedAt: m.PublishedAt,
		})
	}
	published, err := s.Published()
	if err != nil {
		return nil, err
	}
	for _, m := range published {
		add(m, "published")
		revisions, err := s.Revisions(m.Name)
		if err != nil {
			return nil, err
		}
		for _, old := range revisions {
			if old.Revision != m.Revision {
				add(old, "superseded")
			}
		}
	}
	withdrawn, err := s.Withdrawn()
	if err != nil {
		return nil, err
	}
	for _, m := range withdrawn {
		add(m, "withdrawn")
	}
	return models, nil
}

// short is a revision as people read it.
func short(revision string) string { return revision[:min(12, len(revision))] }
