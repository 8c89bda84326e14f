package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/stoker-project/stoker/agent/sweep"
)

type unlabelFlags struct {
	all     bool
	nodes   []string
	release string
	cluster clusterFlags
	output  string
}

// unlabelOutput is one node in `stoker unlabel -o json`.
type unlabelOutput struct {
	Node    string   `json:"node"`
	Removed []string `json:"removed"`
	// Error says why not everything could be removed.
	Error string `json:"error,omitempty"`
}

func (c *cli) unlabelCommand() *cobra.Command {
	var f unlabelFlags
	cmd := &cobra.Command{
		Use:   "unlabel --all | --node NAME",
		Short: "Remove from nodes all labels and annotations that agents wrote",
		Long: `Remove from the nodes of a cluster what agents wrote there: the labels
warm.stoker.dev/*, rev.stoker.dev/*, fits.stoker.dev/* and gpu.stoker.dev/*, and
the annotation stoker.dev/status. Nothing else is touched: no other key, no
taint, no file. Doing it again changes nothing.

Agents that still run write their labels again within a minute: remove them
first. With --release, as the chart's post-delete hook runs it, the command is
refused while the release's DaemonSet is there, and removes only what its agents
wrote. What names no release, as an older agent wrote it, is removed unless the
cluster has a DaemonSet of another release of Stoker.

Exit codes: 0 done, 1 a node could not be done, 2 wrong usage, no such node, or
the release is still there, 130 interrupted.`,
		Example: `  stoker unlabel --all
  stoker unlabel --all --release stoker/stoker
  stoker unlabel --node gpu-1 --node gpu-2 -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.unlabel(cmd, f) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "every node of the cluster")
	flags.StringArrayVar(&f.nodes, "node", nil, "the node `NAME`; may be given again")
	flags.StringVar(&f.release, "release", "", "only what agents of the Helm release `NAMESPACE/NAME` wrote, and only when it is uninstalled")
	f.cluster.add(cmd)
	outputFlag(cmd, &f.output)
	return cmd
}

// parseRelease reads the flag; the zero value where it is not given.
func parseRelease(flag string) (sweep.Release, error) {
	if flag == "" {
		return sweep.Release{}, nil
	}
	r, err := sweep.ParseRelease(flag)
	if err != nil {
		return r, fmt.Errorf("--release: %w", err)
	}
	return r, nil
}

func (c *cli) unlabel(cmd *cobra.Command, f unlabelFlags) error {
	var which error
	if f.all == (len(f.nodes) > 0) {
		which = errors.New("say which nodes: --all, or --node NAME")
	}
	for _, name := range f.nodes {
		if name == "" {
			which = errors.New("--node is empty; name a node")
		}
	}
	release, releaseErr := parseRelease(f.release)
	if err := c.check(which, releaseErr, checkOutput(f.output)); err != nil {
		return err
	}
	logger := c.logger(slog.LevelInfo)
	klog.SetSlogLogger(logger)
	kube, err := f.cluster.config()
	if err != nil {
		return err
	}
	manyRequests(c.prepare(kube))
	limitMemory()
	removed, err := sweep.Unlabel(cmd.Context(), sweep.UnlabelOptions{Kube: kube, Nodes: f.nodes, Release: release, Logger: logger})
	if errors.Is(err, sweep.ErrNoNode) || errors.Is(err, sweep.ErrReleaseThere) {
		return usage(err)
	}
	// What was done is told also where something failed.
	err = errors.Join(err, c.printUnlabel(removed, f.release, f.output))
	failed := 0
	for _, r := range removed {
		if r.Err != nil {
			failed++
			err = errors.Join(err, r.Err)
		}
	}
	if failed > 0 {
		err = fmt.Errorf("%w\n%s could not be done; run it again", err, count(failed, "node"))
	}
	return err
}

func (c *cli) printUnlabel(removed []sweep.Removed, release, output string) error {
	nodes := []unlabelOutput{}
	for _, r := range removed {
		o := unlabelOutput{Node: r.Node, Removed: append([]string{}, r.Keys...)}
		if r.Err != nil {
			o.Error = c.secrets.Scrub(r.Err.Error())
		}
		nodes = append(nodes, o)
	}
	if output == "json" {
		return printJSON(c.json, map[string]any{"nodes": nodes})
	}
	if len(nodes) == 0 {
		whose := "agents"
		if release != "" {
			whose += " of release " + release
		}
		_, err := fmt.Fprintf(c.stdout, "no node has anything that %s wrote\n", whose)
		return err
	}
	rows := [][]string{{"NODE", "RESULT", "REMOVED"}}
	for _, n := range nodes {
		result := "done"
		if n.Error != "" {
			result = "failed"
		}
		keys := strings.Join(n.Removed, ", ")
		if keys == "" {
			keys = "-"
		}
		rows = append(rows, []string{n.Node, result, keys})
	}
	return printTable(c.stdout, rows)
}
