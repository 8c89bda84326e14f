package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/test/cluster"
)

// watchPulls shows how far the nodes are until each says that it is warm for
// all it should hold. What it shows comes from the Nodes' annotations.
func (d *demo) watchPulls(ctx context.Context) error {
	d.say("pulling, verifying, labelling")
	var want int64 // bytes that all nodes together will hold
	bar := newBar(d)
	err := cluster.WaitFor(ctx, "every node to be warm for what the list gives it", func(ctx context.Context) (bool, error) {
		if err := d.checkAgents(); err != nil {
			return false, err
		}
		nodes, err := d.nodes(ctx)
		if err != nil {
			return false, err
		}
		var done, total int64
		warm := 0
		for _, n := range nodes {
			for _, m := range n.status.Models {
				done += max(m.DoneBytes, m.Bytes)
				total += max(m.TotalBytes, m.Bytes)
				if m.Tier != "" {
					warm++
				}
			}
		}
		want = max(want, total)
		bar.show(done, want, fmt.Sprintf("%d of %d models warm on %d nodes", warm, wantWarm(), len(nodes)))
		return warm == wantWarm() && gpusKnown(nodes), nil
	})
	bar.end()
	return err
}

// wantWarm is how many (node, model) pairs the list asks for.
func wantWarm() int {
	n := 0
	for _, m := range machines() {
		n++ // the small model is for all
		if m.pool == "serving" {
			n++
		}
	}
	return n
}

func gpusKnown(nodes []nodeView) bool {
	for _, n := range nodes {
		if _, ok := n.node.Labels[agent.FreeGiBLabel]; !ok {
			return false
		}
	}
	return true
}

// bar is a progress bar on a terminal, and lines elsewhere.
type bar struct {
	d    *demo
	bar  *progressbar.ProgressBar
	last string
	next time.Time
}

func newBar(d *demo) *bar {
	b := &bar{d: d}
	if f, ok := d.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b.bar = progressbar.NewOptions64(1, progressbar.OptionSetWriter(d.out), progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true), progressbar.OptionShowTotalBytes(true), progressbar.OptionFullWidth())
	}
	return b
}

func (b *bar) show(done, total int64, text string) {
	if b.bar == nil {
		line := fmt.Sprintf("    %4d of %4d MiB, %s", done>>20, total>>20, text)
		if now := time.Now(); line != b.last && now.After(b.next) {
			fmt.Fprintln(b.d.out, line)
			b.last, b.next = line, now.Add(time.Second)
		}
		return
	}
	if total > 0 {
		b.bar.ChangeMax64(total)
		b.bar.Describe("    " + text)
		_ = b.bar.Set64(done) // drawing is best effort
	}
}

func (b *bar) end() {
	if b.bar != nil {
		fmt.Fprintln(b.d.out)
	}
}

// nodeView is a Node and what its annotation says.
type nodeView struct {
	node   corev1.Node
	status agent.NodeStatus
}

func (d *demo) nodes(ctx context.Context) ([]nodeView, error) {
	list, err := d.cluster.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var views []nodeView
	for _, n := range list.Items {
		v := nodeView{node: n}
		if text := n.Annotations[agent.StatusAnnotation]; text != "" {
			if err := json.Unmarshal([]byte(text), &v.status); err != nil {
				return nil, fmt.Errorf("read the annotation of %s: %w", n.Name, err)
			}
		}
		views = append(views, v)
	}
	return views, nil
}

// showWarmth prints what the Nodes say, from their labels and annotations.
func (d *demo) showWarmth(ctx context.Context) error {
	d.say("what the Nodes say")
	nodes, err := d.nodes(ctx)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(d.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "    NODE\tGPUS\tFREE GPU MEMORY\tMODEL\tWARM\tREVISION\tFITS\tWHY NOT")
	for _, n := range nodes {
		l := n.node.Labels
		for i, m := range n.status.Models {
			gpus, free := "", ""
			if i == 0 {
				gpus = fmt.Sprintf("%d x %s", n.status.GPUs.Count, n.status.GPUs.Name)
				free = "up to " + l[agent.FreeGiBLabel] + " GiB on one, " + l[agent.IdleLabel] + " idle"
			}
			fmt.Fprintf(tw, "    %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", first(n.node.Name, i), gpus, free, m.Name,
				or(l[agent.WarmPrefix+m.Name], "-"), or(l[agent.RevPrefix+m.Name], "-"), or(l[agent.FitsPrefix+m.Name], "-"), whyNot(m))
		}
	}
	return tw.Flush()
}

func whyNot(m agent.ModelStatus) string {
	if m.Tier == "" {
		return strings.TrimSuffix(string(m.State)+": "+m.Reason, ": ")
	}
	if m.Fits != nil && *m.Fits == 0 {
		return "warm, but a replica could not start: too little free GPU memory"
	}
	return ""
}

// verifyStores holds the labels against the bytes: every file of every node's
// store is hashed again by a process of its own.
func (d *demo) verifyStores(ctx context.Context) error {
	d.say("do the labels tell the truth? stoker verify on every node's store")
	for _, m := range machines() {
		out, err := exec.CommandContext(ctx, d.stoker, "verify", "--store", d.storePath(m.name)).CombinedOutput()
		lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
		if err != nil {
			return fmt.Errorf("verify the store of %s: %w\n%s", m.name, err, out)
		}
		for _, line := range lines[1:] {
			fmt.Fprintf(d.out, "    %s  %s\n", m.name, line)
		}
	}
	return nil
}

// showStatus runs what a person would, with the rights of somebody who may list
// Nodes.
func (d *demo) showStatus(ctx context.Context) error {
	for _, args := range [][]string{{"status"}, {"explain", "gpu-3", bigModel}, {"explain", "gpu-4", bigModel}} {
		d.say("stoker %s", strings.Join(args, " "))
		out, err := exec.CommandContext(ctx, d.stoker, append(args, "--kubeconfig", d.cluster.KubeconfigPath)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("stoker %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		fmt.Fprint(d.out, indent(string(out)))
	}
	return nil
}

func first(s string, i int) string {
	if i == 0 {
		return s
	}
	return ""
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") + "\n"
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}
