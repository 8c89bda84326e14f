package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/agent/fleet"
	"github.com/stoker-project/stoker/fetcher"
)

type statusFlags struct {
	clusterFlags
	node, model, output string
	wide                bool
}

const fleetExitCodes = `Exit codes: 0 told, 1 the API server cannot be asked, 2 wrong usage or an unknown
node or model, 130 interrupted.`

func (c *cli) statusCommand() *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the cluster: nodes, models, what is warm and what is being pulled",
		Long: `Show what the agents have said on their Nodes: GPUs and free memory, what is
warm where and at which revision, how many replicas fit, what is being pulled
and how far, and what somebody should look at.

Your account needs the right to list nodes. With those to list PersistentVolumes
and ValidatingAdmissionPolicies, it also shows which namespaces' pods cannot mount
the store, and what to do; with those to get and list leases in the agents'
namespace, what had no room on a Node with many models. What a Node says is as old
as SAID; an agent says nothing while nothing changes, so an old word may well be
true.

Of more than 20 nodes, nodes are summed up by their GPUs, and models on nodes by
what they say alike. Of more than 40 models, those that most nodes lack are listed
and the others summed up in one row. Of few models on few nodes all are listed, of
more those that are not warm. --wide lists everything; --node and --model list all
of one.
FITS is how many replicas could start now. WARM counts a model where label and
annotation agree, or where the annotation had no room for it. TROUBLE is
explained below the tables; stoker explain has more.

` + fleetExitCodes,
		Example: `  stoker status
  stoker status --model qwen2.5-7b-instruct --context prod
  stoker status --wide
  stoker status -o json | jq '.nodes[] | select(.troubles)'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(checkOutput(f.output), checkModelName("--model", f.model)); err != nil {
				return err
			}
			cfg, err := c.cluster(&f.clusterFlags)
			if err != nil {
				return err
			}
			var all *fleet.Fleet
			if f.node != "" {
				all, err = fleet.ListOne(cmd.Context(), cfg, f.node, f.model)
			} else {
				all, err = fleet.List(cmd.Context(), cfg, fleet.Want{Whole: f.wide || f.output == "json", Model: f.model})
			}
			if err != nil {
				return err
			}
			c.incomplete(all)
			if f.node == "" && f.model == "" {
				c.volumes(cmd.Context(), cfg, all)
			}
			shown, err := all.Only(f.node, f.model)
			if err != nil {
				return unknownIsUsage(err)
			}
			if f.output == "json" {
				return printJSON(c.json, shown)
			}
			return shown.Write(c.stdout, fleet.View{Wide: f.wide, All: f.node != "" || f.model != ""})
		},
	}
	f.add(cmd)
	outputFlag(cmd, &f.output)
	cmd.Flags().StringVar(&f.node, "node", "", "show only the node `NAME`")
	cmd.Flags().StringVar(&f.model, "model", "", "show only the model `NAME`")
	cmd.Flags().BoolVar(&f.wide, "wide", false, "list every node and every model on it, and shorten nothing")
	return cmd
}

// incomplete logs why something is left out that Nodes had no room for. Without the right
// to read Leases that is as it should be, and what is left out is named.
func (c *cli) incomplete(all *fleet.Fleet) {
	if all.Incomplete != nil {
		c.logger(slog.LevelWarn).Debug("leave out what Leases have beyond the Nodes", "error", all.Incomplete)
	}
}

// volumes adds what the caller may see of volumes.
func (c *cli) volumes(ctx context.Context, cfg *rest.Config, all *fleet.Fleet) {
	v, err := fleet.ListVolumes(ctx, cfg)
	switch {
	case apierrors.IsForbidden(err):
		c.logger(slog.LevelWarn).Debug("leave volumes out", "error", err)
	case err != nil:
		c.logger(slog.LevelWarn).Warn("leave volumes out", "error", err)
	default:
		all.Add(v)
	}
}

// checkModelName passes over a flag that is not given.
func checkModelName(flag, name string) error {
	if name == "" {
		return nil
	}
	if err := fetcher.CheckName(name); err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

// unknownIsUsage makes a name that there is not wrong usage.
func unknownIsUsage(err error) error {
	var unknown *fleet.UnknownError
	if errors.As(err, &unknown) {
		return usage(err)
	}
	return err
}
