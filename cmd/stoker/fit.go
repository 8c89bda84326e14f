package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/agent/measure"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/smallfile"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
)

type fitFlags struct {
	store, gpus, output string
	check               bool
	serving             sizing.Serving
	// maxModelLen and maxNumBatchedTokens are as they were given: vLLM has short forms of large numbers.
	maxModelLen, maxNumBatchedTokens string
	access                           accessFlags
}

// fitOutput is `stoker fit -o json`: all terms of the sum.
type fitOutput struct {
	// Model is the argument; Revision is what it stands for, where it has one.
	Model    string `json:"model"`
	Revision string `json:"revision,omitempty"`
	sizing.Report
	// Measured is what replicas of the model in the store took on GPUs like these, where the agent measures them.
	Measured []measure.Record `json:"measured,omitempty"`

	noGPUs      string // why no GPU could be read
	doubtGPUs   string // why it is not known how many GPUs a replica takes
	measuredErr error  // why Measured is not known
}

func (c *cli) fitCommand() *cobra.Command {
	var f fitFlags
	cmd := &cobra.Command{
		Use: "fit NAME|SOURCE|DIR [flags] [-- vllm serve ...]",

		DisableFlagsInUseLine: true,

		Short: "Tell whether a model fits on the GPUs here, with every term of the sum",
		Long: `Tell whether vLLM could start a model on the GPUs of this machine now. The test
is vLLM's own: a GPU's budget (its memory x --gpu-memory-utilization) must be
free, and the weights, the KV cache of one request of --max-model-len tokens and
what vLLM takes beside them must fit in the budget. The last term is measured by
vLLM when it starts, so here it has bounds, and there are three answers: yes
(the most leaves room), tight (the least does, the most does not) and no.

The model is a NAME in the store, a SOURCE like hf://ORG/NAME (only config.json
and the first bytes of the weight files are read), or a DIR that holds a model;
write ./NAME for a directory that is called like a model. Where the flags say
nothing, vLLM's defaults and the model's own length are meant, of the release
that --vllm-version names: releases differ. A --max-model-len above the model's own
length is refused, as by vLLM, unless VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 is set.

The sum is printed for each number of GPUs that one replica may take here (1, 2,
4 and so on), or for --tensor-parallel only; sizes that vLLM refuses are said to
be impossible. Then each GPU's line says which budget vLLM would claim, what
weights and one request take of it, how many tokens of cache are left beside the
weights (with the most and the least that vLLM takes beside them), and the
longest request that would fit for certain. What is not exact is marked as
estimated. Of a NAME whose replicas the agent of this node measures, what they
took stands beside the sum.

The flags are vLLM's, and behind -- a whole command line of it may stand, as it
is in a pod: its options are read as vLLM does, with the file that its --config
names, and come before flags of the same name; without -tp it is of one GPU.
What is known to change no memory is passed over. What may change it and is not
counted (--enable-lora, --speculative-config and others, and options that are
not known here) makes the answer an estimate, with a warning.

With --check, which is for scripts and init containers, it also fails where no
replica could start: with 1 if it could once memory is free again or a GPU is
reset or mended, with 2 if it never could with these arguments. What is not
certain is not refused: where it is tight (it warns then), where no GPU can be
read, where one that is needed does not report its memory, or where the sum is
an estimate, as it is with a --kv-cache-dtype whose size is not known here or an
option that is not counted. With -o json it prints its JSON even where such an
option may mend arguments that vLLM would refuse.

Exit codes: 0 whenever it could compute, whether it fits or not; 1 the files
could not be read, or (--check) it does not fit now; 2 wrong usage, no such
model, arguments that vLLM would refuse, or (--check) it never fits; 3 the
source refuses; 130 interrupted.`,
		Example: `  stoker fit qwen2.5-7b-instruct
  stoker fit hf://Qwen/Qwen2.5-72B-Instruct --tensor-parallel 4 --gpus simulated:dgxh100
  stoker fit ./my-model --max-model-len 32768 --kv-cache-dtype fp8 -o json
  stoker fit /stoker/model --tensor-parallel 2 --max-model-len 32768 --check
  stoker fit hf://Qwen/Qwen3-32B -- vllm serve /models/qwen -tp 2 --max-num-seqs 64`,
		Args: func(cmd *cobra.Command, args []string) error {
			own, _ := serveLine(cmd, args)
			return exactArg("a model: a NAME in the store, a SOURCE like hf://ORG/NAME, or a DIR")(cmd, own)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			own, line := serveLine(cmd, args)
			return c.fit(cmd, own[0], line, f)
		},
	}
	flags := cmd.Flags()
	storeFlag(cmd, &f.store)
	f.addServing(flags)
	flags.BoolVar(&f.check, "check", false, "fail where no replica could start here")
	f.access.add(flags)
	gpusFlag(cmd, &f.gpus)
	outputFlag(cmd, &f.output)
	return cmd
}

func (c *cli) fit(cmd *cobra.Command, model string, line []string, f fitFlags) error {
	reader, gpusErr := openGPUs(f.gpus)
	scheme, _, isSource := strings.Cut(model, "://")
	if !isSource {
		scheme = fetcher.SchemeFile // what is here has links at most
	}
	access, accessErr := f.access.access(scheme)
	if err := c.check(f.checkServing(cmd, line), gpusErr, accessErr, checkOutput(f.output), checkStore(f.store)); err != nil {
		return err
	}
	out := fitOutput{Model: model, doubtGPUs: f.serving.DoubtGPUs()}
	sized, err := c.sizeModel(cmd.Context(), &out, f.store, access)
	if err != nil {
		return err
	}
	if err := sized.CheckLength(f.serving); err != nil && !allowsLongRequests() {
		return usage(fmt.Errorf("fit %s: %w; ask for less, or set %s=1 here and for vLLM, where the model can take more", model, err, allowLongRequests))
	}
	devices, err := readGPUs(cmd.Context(), reader, f.gpus)
	if cmd.Context().Err() != nil {
		return err
	}
	if err != nil { // what the model needs is an answer all the same
		out.noGPUs = err.Error()
		if f.output == "json" {
			c.logger(slog.LevelWarn).WarnContext(cmd.Context(), "no GPU is compared", "error", err)
		}
	}
	// Nothing runs on a GPU that is split into parts, only on those.
	devices, partitioned := splitPartitioned(devices)
	if out.Report, err = sized.Report(f.serving, deviceMemory(devices)); err != nil {
		err = fmt.Errorf("fit %s: %w", model, err)
		if f.check && len(f.serving.Uncounted) > 0 { // which may make it right
			fmt.Fprintf(c.stderr, "stoker: warning: %v; what may change that is not counted: %s; vLLM itself decides\n", err, strings.Join(f.serving.Uncounted, ", "))
			if f.output != "json" {
				return nil
			}
			out.Report, out.Measured = sized.RefusedReport(f.serving, err), onThese(out.Measured, devices)
			return c.writeFitJSON(out)
		}
		return usage(err)
	}
	out.Measured = onThese(out.Measured, devices)
	if out.measuredErr != nil {
		c.logger(slog.LevelWarn).WarnContext(cmd.Context(), "leave out what replicas took here", "error", out.measuredErr)
	}
	c.warnUncounted(out, f.serving)
	write := func() error { return c.printFit(out, devices) }
	if f.output == "json" {
		write = func() error { return c.writeFitJSON(out) }
	}
	if err := write(); err != nil || !f.check {
		return err
	}
	return c.checkFit(out, devices, partitioned)
}

func (c *cli) writeFitJSON(out fitOutput) error {
	return printJSON(c.secrets.Writer(c.json, true), out)
}

// allowLongRequests is the variable by which vLLM takes a --max-model-len above the
// model's own length. It means the same here.
const allowLongRequests = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"

// allowsLongRequests reads that variable as vLLM does.
func allowsLongRequests() bool {
	switch strings.ToLower(strings.TrimSpace(os.Getenv(allowLongRequests))) {
	case "1", "true":
		return true
	}
	return false
}

// splitPartitioned takes the GPUs in MIG mode out of a list.
func splitPartitioned(all []gpu.Device) (devices, partitioned []gpu.Device) {
	for _, d := range all {
		if d.State == gpu.StatePartitioned {
			partitioned = append(partitioned, d)
		} else {
			devices = append(devices, d)
		}
	}
	return devices, partitioned
}

// deviceMemory is what sizing needs to know of devices.
func deviceMemory(devices []gpu.Device) []sizing.DeviceMemory {
	list := make([]sizing.DeviceMemory, 0, len(devices))
	for _, d := range devices {
		one := sizing.DeviceMemory{
			UUID: d.UUID, Name: d.Name, TotalBytes: d.TotalBytes, UsableBytes: d.UsableBytes, FreeBytes: d.FreeBytes, Partition: d.MIG != nil,
		}
		switch d.State {
		case gpu.StateOK, gpu.StateLost, gpu.StateResetRequired:
			one.Blocked = d.Obstacle() // of the others nothing certain is known
		}
		list = append(list, one)
	}
	return list
}

// pinnedModel is where pods have the link to the pinned revision.
const pinnedModel = inject.PinPath + "/" + pinName

// sizeModel reads what a model needs from wherever it is.
func (c *cli) sizeModel(ctx context.Context, out *fitOutput, storeDir string, access fetcher.Access) (sizing.Model, error) {
	model := out.Model
	if strings.Contains(model, "://") {
		return c.sizeSource(ctx, out, access)
	}
	if fetcher.CheckName(model) == nil {
		sized, found, err := sizePublished(out, storeDir)
		if found || err != nil {
			return sized, err
		}
	}
	info, err := os.Stat(model)
	switch {
	case err == nil && info.IsDir():
		return readModel(model, smallfile.DirFS(model, os.OpenFile))
	case err == nil:
		return sizing.Model{}, usage(fmt.Errorf("fit %s: it is not a directory; name the one that holds the model", model))
	case errors.Is(err, fs.ErrNotExist):
		return sizing.Model{}, usage(noSuchModel(model, storeDir))
	}
	return sizing.Model{}, fmt.Errorf("fit %s: %w", model, err)
}

// noSuchModel is what to say of an argument that is nothing here.
func noSuchModel(model, storeDir string) error {
	if target, err := os.Readlink(model); err == nil {
		return fmt.Errorf("fit %s: it is a link to %s, which is not here; mount what holds that at its place", model, target)
	}
	if filepath.Clean(model) == pinnedModel {
		return fmt.Errorf("there is no %s: the init container %s makes it, and none has run in this pod; "+
			"where Stoker's admission policy is not in force, let the chart (stoker.inject: chart) or stoker inject add it", model, inject.Waiter)
	}
	return fmt.Errorf("there is no model %q in the store %s and no directory of that name; stoker ls shows what is%s", model, storeDir, hubHint(model))
}

// hubHint names the source that ORG/NAME alone, as vLLM takes it, would stand for.
func hubHint(model string) string {
	if _, err := fetcher.ParseSource("hf://" + model); err != nil || strings.Count(model, "/") != 1 || strings.HasPrefix(model, ".") {
		return ""
	}
	return ", and hf://" + model + " is the Hub's"
}

// sizePublished reads what a model in the store needs. One that is removed while it
// is read is not found, and of one that is replaced the new revision is read.
func sizePublished(out *fitOutput, dir string) (sized sizing.Model, found bool, err error) {
	for {
		m, s, err := published(dir, out.Model)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			out.Revision, out.Measured, out.measuredErr = "", nil, nil
			return sizing.Model{}, false, nil
		}
		if err != nil {
			return sizing.Model{}, false, fmt.Errorf("fit %s: %w", out.Model, err)
		}
		out.Revision = m.Revision
		out.Measured, out.measuredErr = readMeasured(s, m)
		sized, err := readModel(out.Model, s.Files(m.Name, m.Revision))
		if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESTALE) || stillPublished(s, m) {
			return sized, true, err
		}
	}
}

// stillPublished says whether a model is published as it was when m was read.
func stillPublished(s *store.Store, m store.Manifest) bool {
	now, err := s.Lookup(m.Name)
	return err != nil && !errors.Is(err, store.ErrNotFound) || err == nil && now.Revision == m.Revision && now.PublishedAt.Equal(m.PublishedAt)
}

// published looks a model up without asking that there is a store at all.
func published(dir, name string) (store.Manifest, *store.Store, error) {
	s, err := store.OpenReadOnly(dir)
	if err != nil {
		return store.Manifest{}, nil, err
	}
	m, err := s.Lookup(name)
	return m, s, err
}

func (c *cli) sizeSource(ctx context.Context, out *fitOutput, access fetcher.Access) (sizing.Model, error) {
	src, err := fetcher.ParseSource(out.Model)
	if err != nil {
		return sizing.Model{}, usage(err)
	}
	driver, err := driverFor(src, access, c.secrets)
	if err != nil {
		return sizing.Model{}, err
	}
	listing, err := driver.List(ctx, src)
	if err != nil {
		return sizing.Model{}, fmt.Errorf("fit %s: %w", src, err)
	}
	out.Revision = listing.Revision
	// What a pull would leave out, vLLM does not load. Where a pull would ask for a choice,
	// all that is there is counted.
	chosen, err := fetcher.Choose(ctx, driver, src, listing, fetcher.Choice{})
	switch {
	case err == nil:
		listing.Files = chosen
	case !errors.Is(err, fetcher.ErrNothingSelected):
		return sizing.Model{}, fmt.Errorf("fit %s: %w", src, err)
	}
	return readModel(out.Model, newSourceFS(ctx, driver, src, listing))
}

func readModel(name string, fsys fs.FS) (sizing.Model, error) {
	m, err := sizing.ReadModel(fsys)
	if errors.Is(err, fs.ErrNotExist) {
		return m, usage(fmt.Errorf("fit %s: %w; a model has a config.json and weights beside it", name, err))
	}
	var source *fetcher.Error
	var system *fs.PathError
	if err != nil && !errors.Is(err, sizing.ErrTooLarge) && !errors.As(err, &source) && !errors.As(err, &system) {
		err = fmt.Errorf("%w; mend that file, or pull the model again", err) // it was read, and is wrong
	}
	if err != nil {
		return m, fmt.Errorf("fit %s: %w", name, err)
	}
	return m, nil
}
