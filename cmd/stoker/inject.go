package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/fetcher"
)

// imageRepository is where the chart takes the image from by default.
const imageRepository = "ghcr.io/stoker-project/stoker"

type injectFlags struct {
	inject.Options
	file, output string
}

func (c *cli) injectCommand() *cobra.Command {
	var f injectFlags
	cmd := &cobra.Command{
		Use:   "inject -f FILE",
		Short: "Add to a manifest what a pod needs that names a model",
		Long: `Add to every pod in FILE that has the label stoker.dev/model what the chart's
admission policy would add: the claim stoker-models at /models, read-only, the
init container stoker-wait, which waits for the model and pins its revision as
/stoker/model (and those of the annotation stoker.dev/adapters: A,B as
/stoker/adapters/NAME), variables that keep the Hub's client offline, and a preference
for nodes where the model is warm and a replica fits. With the annotation
stoker.dev/placement: require, a warm node is required; with stoker.dev/fits:
require, none that says that no replica fits. enableServiceLinks becomes false,
because a Service called vllm would set VLLM_PORT to something that is no port;
the annotation stoker.dev/service-links: keep leaves it. What a pod has already
stays; a volume of its own at or below /models or /stoker, or at /, is refused.

It finds pods in Pod, Deployment, StatefulSet, DaemonSet, ReplicaSet, Job,
CronJob, PodTemplate, ReplicationController, LeaderWorkerSet, JobSet, Rollout,
RayCluster, RayService, RayJob, Knative's Service, and lists of them; objects of
other kinds that name a model are reported. Documents keep their order, and
those in which nothing changes come out byte for byte, as all do of a file that
was injected before. Where something changes, comments and the order of keys are
lost. Knative takes what is added only where its config-features allow init
containers, claims and affinity.

The flags are the chart's values image, image.pullPolicy, nonRootUser and
inject; give what your release has. Clusters before Kubernetes 1.36 have no such
policy.

Exit codes: 0 written, also if nothing was to be added, 1 the result cannot be
written, 2 wrong usage, FILE cannot be read, or a pod of it has a volume of its
own where Stoker's belong, 130 interrupted.`,
		Example: `  stoker inject -f vllm.yaml | kubectl apply -f -
  helm template vllm ./chart | stoker inject -f - --image registry.example.com/stoker:1`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.inject(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "filename", "f", "", "read the manifest from `FILE`; - is standard input (required)")
	flags.StringVarP(&f.output, "output", "o", inject.YAML, "write the result in this `FORMAT`: yaml or json (several documents become a List)")
	flags.StringVar(&f.Image, "image", imageRepository+":"+version, "`IMAGE` of the init container")
	flags.StringVar(&f.PullPolicy, "pull-policy", "IfNotPresent", "when that is pulled: `POLICY` is Always, IfNotPresent or Never")
	flags.StringVar(&f.CPU, "cpu", "100m", "request and limit of the init container, a `QUANTITY`")
	flags.StringVar(&f.Memory, "memory", "128Mi", "request and limit of the init container, a `QUANTITY`")
	flags.Int64Var(&f.User, "user", inject.DefaultUser, "`UID` and gid of the init container; 0 leaves them to the namespace, as OpenShift wants it")
	flags.IntVar(&f.WeightWarm, "weight-warm", 100, "`WEIGHT` of the preference for warm nodes, 1 to 100")
	flags.IntVar(&f.WeightFits, "weight-fits", 100, "`WEIGHT` of the preference for warm nodes where a replica fits, 0 to 100")
	flags.IntVar(&f.WeightRAM, "weight-ram", 10, "`WEIGHT` of the preference for nodes that have the model in memory, 0 to 100")
	flags.IntVar(&f.WeightIdle, "weight-idle", 1, "`WEIGHT` of the preference for nodes with an idle GPU, 0 to 100")
	flags.BoolVar(&f.RequireFits, "require-fits", true, "where a warm node is required, also require that a replica fits there")
	return cmd
}

// check complains about everything that the chart's schema would refuse.
func (f *injectFlags) check() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if f.file == "" {
		bad("-f is missing; name the manifest, or - for standard input")
	}
	if f.output != inject.YAML && f.output != inject.JSON {
		bad("--output %q is unknown; use yaml or json", f.output)
	}
	if f.Image == "" {
		bad("--image is empty; name the image that your release uses")
	}
	switch f.PullPolicy {
	case "Always", "IfNotPresent", "Never":
	default:
		bad("--pull-policy %q is unknown; use Always, IfNotPresent or Never", f.PullPolicy)
	}
	for flag, value := range map[string]string{"--cpu": f.CPU, "--memory": f.Memory} {
		if q, err := resource.ParseQuantity(value); err != nil || q.Sign() <= 0 {
			bad("%s %q is no quantity above 0; write it like 100m or 128Mi", flag, value)
		}
	}
	if f.User < 0 {
		bad("--user %d is negative; give a uid, or 0 for the namespace's", f.User)
	}
	if f.WeightWarm < 1 || f.WeightWarm > 100 {
		bad("--weight-warm %d is not between 1 and 100", f.WeightWarm)
	}
	for flag, weight := range map[string]int{"--weight-fits": f.WeightFits, "--weight-ram": f.WeightRAM, "--weight-idle": f.WeightIdle} {
		if weight < 0 || weight > 100 {
			bad("%s %d is not between 0 and 100", flag, weight)
		}
	}
	return errs
}

func (c *cli) inject(cmd *cobra.Command, f injectFlags) error {
	if err := c.check(f.check()...); err != nil {
		return err
	}
	in, err := readInput(cmd.InOrStdin(), f.file)
	if err != nil {
		return usage(fmt.Errorf("read the manifest: %w; name a file with -f, or - for standard input", err))
	}
	var out bytes.Buffer
	found, err := inject.File(&out, in, f.output, f.Options)
	switch {
	case errors.Is(err, inject.ErrDocument):
		return usage(fmt.Errorf("read %s: %w", f.file, err))
	case errors.Is(err, inject.ErrTaken):
		return usage(fmt.Errorf("inject %s: %w", f.file, err))
	case err != nil:
		return err
	}
	c.remark(found)
	_, err = c.exact.Write(out.Bytes())
	return err
}

// maxManifests is more than any file of manifests has, in bytes.
const maxManifests = 64 << 20

func readInput(stdin io.Reader, file string) ([]byte, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file) // it may be a pipe of the shell
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxManifests+1))
	if err == nil && len(text) > maxManifests {
		err = fmt.Errorf("read %s: it has more than %d bytes", file, maxManifests)
	}
	return text, err
}

// remark says on standard error what somebody may not have meant.
func (c *cli) remark(r inject.Result) {
	for _, object := range r.Unread {
		fmt.Fprintf(c.stderr, "stoker: %s names a model, but pods are not looked for in its kind, so nothing was added to it; "+
			"from Kubernetes 1.36 on the chart's admission policy adds it to the pods themselves\n", object)
	}
	for _, odd := range r.NotStrings {
		fmt.Fprintf(c.stderr, "stoker: %s\n", odd)
	}
	if r.Pods == 0 && len(r.Unread) == 0 && len(r.NotStrings) == 0 {
		fmt.Fprintln(c.stderr, "stoker: no pod here has the label stoker.dev/model, so nothing was added")
	}
	for _, m := range r.Models {
		if err := fetcher.CheckName(m); err != nil {
			fmt.Fprintf(c.stderr, "stoker: no model can be called so, and the init container will say it as well: %v\n", err)
		}
	}
	for _, n := range r.TooMany {
		fmt.Fprintf(c.stderr, "stoker: stoker.dev/adapters names %d adapters, and the init container will refuse more than %d; name fewer\n", n, agent.MaxAdapters)
	}
	for _, v := range r.Fits {
		fmt.Fprintf(c.stderr, "stoker: stoker.dev/fits %q is ignored; use require, or leave it out\n", v)
	}
	for _, v := range r.ServiceLinks {
		fmt.Fprintf(c.stderr, "stoker: stoker.dev/service-links %q is ignored; use keep, or leave it out\n", v)
	}
	for _, p := range r.Placements {
		fmt.Fprintf(c.stderr, "stoker: stoker.dev/placement %q is taken for prefer; use prefer or require\n", p)
	}
}
