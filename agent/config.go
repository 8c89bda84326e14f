package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/fetcher/smallfile"
	"github.com/stoker-project/stoker/fetcher/store"
)

// ErrConfig is a configuration that cannot be used; the error names each bad
// field with its value and what would be right.
var ErrConfig = errors.New("the configuration is not valid")

// LastGoodFile is the name of the agent's memory of the last good
// configuration, under the store's agent folder.
const LastGoodFile = "last-good-config.yaml"

// Config is the agent's configuration: the model list and the settings, as
// they stand in one file. [ParseConfig] fills the defaults.
type Config struct {
	// Models is the model list, in the file's order.
	Models []Model
	// Store limits what the store may take.
	Store StoreConfig
	// Pull bounds the transfers.
	Pull PullConfig
	// GPU is how readings of the GPUs are judged.
	GPU GPUConfig
	// Measure is whether replicas on this node are asked what they took.
	Measure MeasureConfig
	// Startup is when a new node's startup taint goes.
	Startup StartupConfig
	// Scrub bounds the reading again of what is published.
	Scrub ScrubConfig
	// RAM bounds what is held in memory.
	RAM RAMConfig
	// Volume is what the store is on.
	Volume VolumeConfig
	// Status is where the agent may write what has no room on its Node.
	Status StatusConfig
	// Intervals are all the times that the agent keeps.
	Intervals Intervals
}

// How a store is used: the values of [VolumeConfig].
const (
	// VolumeNode: each node has a disk of its own.
	VolumeNode = "node"
	// VolumeShared: all nodes mount one volume, and one agent writes into it.
	VolumeShared = "shared"
	// VolumeReadOnly: all nodes mount one volume, and no agent writes into it.
	VolumeReadOnly = "readOnly"
)

// StatusConfig is where the agent writes what has no room in the annotation of its
// Node: a Lease of Namespace that is named Lease, "." and the node. Empty: nowhere.
type StatusConfig struct{ Namespace, Lease string }

// VolumeConfig is what the store is on. It takes effect when the agent starts.
type VolumeConfig struct {
	// Mode is VolumeNode, the default, VolumeShared, or VolumeReadOnly.
	Mode string
	// Namespace and Lease name the Lease by which the writer of a shared volume is
	// elected, or which holds what agents tell each other of a read-only one. Lease is
	// by default stoker-store.
	Namespace, Lease string
	// LeaseDuration is how long a writer may go without renewing it. Default 30s.
	LeaseDuration time.Duration
}

// shared says whether agents take turns in writing into one store, sealed whether
// they use one that none of them writes.
func (c VolumeConfig) shared() bool { return c.Mode == VolumeShared }
func (c VolumeConfig) sealed() bool { return c.Mode == VolumeReadOnly }

// own says whether the store is this node's own.
func (c VolumeConfig) own() bool { return !c.shared() && !c.sealed() }

// StoreConfig limits what the store may take of its file system.
type StoreConfig struct {
	// Quota in bytes; 0 is none.
	Quota int64
	// Reserve is what stays free. Default 20%.
	Reserve Share
}

// GPUConfig is how readings of the GPUs are judged.
type GPUConfig struct {
	// LeakAbove is how much of a device's memory may be in use, while no pod
	// here has a GPU, before that is a leak. Default 5%: the driver's own use
	// is below that, and vLLM starts by default with up to 8% in use.
	LeakAbove Share
}

// MeasureConfig is whether, and how, replicas on this node are asked for their metrics page, which has what vLLM left for
// its KV cache.
type MeasureConfig struct {
	// Enabled: they are asked. Default false.
	Enabled bool
	// Port is where pods serve the page whose container with GPUs names no port http. Default 8000, vLLM's own.
	Port uint16
	// TrustedNamespaces are those whose pods may add a yes by what they answer; others may only take one away.
	TrustedNamespaces []string
}

// StartupConfig is when the taint [ColdTaint] is lifted.
type StartupConfig struct {
	// Priority: the models of at least this priority are waited for. Default 0.
	Priority int
	// Timeout is how long the taint stands at most. Default 30m.
	Timeout time.Duration
}

// ScrubConfig bounds the reading again of what is published.
type ScrubConfig struct {
	// Rate is how fast at most, in bytes per second. Default 50 MiB/s.
	Rate int64
	// Cycle is how long it takes to read everything once, if Rate suffices.
	// Default 24h.
	Cycle time.Duration
}

// RAMConfig bounds what is held in memory of models that want it.
type RAMConfig struct {
	// Budget is how much of them at most: bytes, or a share of what the Node can
	// allocate. Default: nothing.
	Budget Share
	// Rate is how fast they are read at most, in bytes per second. Default 200
	// MiB/s.
	Rate int64
}

// Share is a part of a file system or of a memory: a percentage of it, or a
// number of bytes.
type Share struct {
	Percent float64
	Bytes   int64
}

// Of returns the share in bytes of total bytes.
func (s Share) Of(total int64) int64 {
	if s.Bytes > 0 {
		return s.Bytes
	}
	return int64(float64(total) * s.Percent / 100)
}

// PullConfig bounds the transfers.
type PullConfig struct {
	// ConcurrentModels is how many models are pulled at once. Default 2.
	ConcurrentModels int
	// Jobs is the most connections of one model's transfer. Default 32.
	Jobs int
	// MaxRate is in bytes per second for the whole node; 0 is unlimited.
	MaxRate int64
}

// Intervals are all the times that the agent keeps.
type Intervals struct {
	// Observe is the loop's tick. Default 5s.
	Observe time.Duration
	// LabelWrites is the least time between writes of changed state. Default 2s.
	LabelWrites time.Duration
	// Progress is how often the annotation's progress is written while
	// something is pulled. Default 30s.
	Progress time.Duration
	// GPU is how often, at most, the Node is written because of its GPUs
	// alone: how long a label may say more than there is. Default 60s.
	GPU time.Duration
	// GPURise is how long more free memory must have held before it is said.
	// Less is said at once, as far as GPU allows. After rises that did not last
	// it is up to eight times as long. Default 60s.
	GPURise time.Duration
	// GPULeak is how long memory must be in use, while no pod here has a GPU,
	// before that is a leak. Default 5m.
	GPULeak time.Duration
	// Heartbeat is how often status/agent.json is written. Default 10s.
	Heartbeat time.Duration
	// Verify is how often the published files are checked by stat. Default 30s.
	Verify time.Duration
	// RetryMin and RetryMax bound the backoff after a failure. Default 5s, 10m.
	RetryMin, RetryMax time.Duration
	// Residency is how often what is in memory is measured. Default 15s.
	Residency time.Duration
	// Resync is how often the Node is read, to see its labels and whether ours
	// are still there. Default 1m.
	Resync time.Duration
	// Timeout is how long a call to the store, the devices or the API may take
	// before what it asks about counts as unknown. Default 15s.
	Timeout time.Duration
	// Leave is for how long, on a shared volume, no Node may have carried a model's
	// label before its files go: longer than an agent takes to see that it leaves,
	// and to write. Default 2m.
	Leave time.Duration
	// Grace is how long a model that is no longer wanted stays on the disk
	// after its label has gone. Default 10m.
	Grace time.Duration
}

// LogValue shows the effective settings; there is no secret in them.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int("models", len(c.Models)),
		slog.Any("store", c.Store),
		slog.Any("pull", c.Pull),
		slog.Any("gpu", c.GPU),
		slog.Any("measure", c.Measure),
		slog.Any("startup", c.Startup),
		slog.Any("scrub", c.Scrub),
		slog.Any("ram", c.RAM),
		slog.Any("volume", c.Volume),
		slog.Any("status", c.Status),
		slog.Any("intervals", c.Intervals),
	)
}

// ParseConfig reads a configuration file's content strictly: unknown fields
// are errors. The error wraps [ErrConfig] and holds one line for each bad
// field, with its value and what would be right.
func ParseConfig(data []byte) (Config, error) {
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %s", ErrConfig, errText(err))
	}
	var document any
	decoder := json.NewDecoder(bytes.NewReader(asJSON))
	decoder.UseNumber() // large sizes keep every digit
	if err := decoder.Decode(&document); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	var errs []error
	top := asFields("", document, &errs)
	var cfg Config
	if models, ok := top.take("models"); ok {
		cfg.Models = parseModels(models, &errs)
	} else {
		// An empty or cut file must never read as "hold nothing".
		top.complain("models", nil, "the model list is missing; write models: [] for none")
	}
	section := func(key string) *fields {
		v, _ := top.take(key)
		return asFields(key, v, &errs)
	}
	cfg.Store = parseStore(section("store"))
	cfg.Pull = parsePull(section("pull"))
	cfg.GPU = parseGPU(section("gpu"))
	cfg.Measure = parseMeasure(section("measure"))
	cfg.Startup = parseStartup(section("startup"))
	cfg.Scrub = parseScrub(section("scrub"))
	cfg.RAM = parseRAM(section("ram"))
	cfg.Volume = parseVolume(section("volume"))
	cfg.Status = parseStatus(section("status"))
	cfg.Intervals = parseIntervals(section("intervals"))
	if iv := cfg.Intervals; cfg.Volume.shared() && iv.Leave < 3*iv.Verify {
		top.complain("intervals.leave", iv.Leave.String(), "write at least three times intervals.verify, which is "+iv.Verify.String()+": agents see only when they look that a model leaves the shared volume")
	}
	top.done()
	if len(errs) > 0 {
		return Config{}, fmt.Errorf("%w:\n%w", ErrConfig, errors.Join(errs...))
	}
	return cfg, nil
}

func parseStore(f *fields) StoreConfig {
	cfg := StoreConfig{Quota: f.size("quota", 0), Reserve: f.share("reserve", "the file system", Share{Percent: 20})}
	f.done()
	return cfg
}

func parseGPU(f *fields) GPUConfig {
	cfg := GPUConfig{LeakAbove: f.share("leakAbove", "a device's memory", Share{Percent: 5})}
	f.done()
	return cfg
}

// vllmPort is vLLM's default.
const vllmPort = 8000

func parseMeasure(f *fields) MeasureConfig {
	cfg := MeasureConfig{Enabled: f.boolean("enabled", false), TrustedNamespaces: f.strs("trustedNamespaces")}
	port := f.integer("port", vllmPort, 1)
	if port > math.MaxUint16 {
		f.complain("port", port, "write a port from 1 to 65535")
	}
	cfg.Port = uint16(port)
	for i, name := range cfg.TrustedNamespaces {
		for _, why := range validation.IsDNS1123Label(name) {
			f.complain(fmt.Sprintf("trustedNamespaces[%d]", i), name, "not the name of a namespace: "+brief(why))
		}
	}
	if len(cfg.TrustedNamespaces) == 0 {
		cfg.TrustedNamespaces = nil
	}
	f.done()
	return cfg
}

func parseStartup(f *fields) StartupConfig {
	cfg := StartupConfig{Priority: int(f.integer("priority", 0, -1_000_000_000)), Timeout: f.duration("timeout", 30*time.Minute)}
	f.done()
	return cfg
}

func parseScrub(f *fields) ScrubConfig {
	cfg := ScrubConfig{Rate: f.size("rate", 50<<20), Cycle: f.duration("cycle", 24*time.Hour)}
	f.done()
	return cfg
}

func parseRAM(f *fields) RAMConfig {
	cfg := RAMConfig{Budget: f.share("budget", "what the Node can allocate", Share{}), Rate: f.size("rate", 200<<20)}
	f.done()
	return cfg
}

func parseVolume(f *fields) VolumeConfig {
	cfg := VolumeConfig{Mode: f.str("mode")}
	switch cfg.Mode {
	case "":
		cfg.Mode = VolumeNode
	case VolumeNode, VolumeShared, VolumeReadOnly:
	default:
		f.complain("mode", cfg.Mode, "write node, for a disk on each node, shared, for one volume that all nodes mount and one agent writes, or readOnly, for one that all nodes mount and none writes")
	}
	cfg.Namespace, cfg.Lease = f.str("namespace"), f.str("lease")
	cfg.LeaseDuration = f.duration("leaseDuration", 30*time.Second)
	if cfg.LeaseDuration < 2*time.Second {
		f.complain("leaseDuration", cfg.LeaseDuration.String(), "write at least 2s: a renewal takes a moment")
	}
	if cfg.Lease == "" {
		cfg.Lease = "stoker-store"
	}
	if !cfg.own() && cfg.Namespace == "" {
		f.complain("namespace", cfg.Namespace, "name the namespace of the Lease by which agents agree who writes into the volume, or reads which part of it")
	}
	f.done()
	return cfg
}

func parseStatus(f *fields) StatusConfig {
	cfg := StatusConfig{Namespace: f.str("namespace"), Lease: f.str("lease")}
	if (cfg.Lease == "") != (cfg.Namespace == "") {
		f.complain("lease", cfg.Lease, "write namespace and lease, or neither: where the Leases are, and how their names begin")
	}
	f.done()
	return cfg
}

func parsePull(f *fields) PullConfig {
	cfg := PullConfig{
		ConcurrentModels: int(f.integer("concurrentModels", 2, 1)),
		Jobs:             int(f.integer("jobs", 32, 1)),
		MaxRate:          f.size("maxRate", 0),
	}
	f.done()
	return cfg
}

func parseIntervals(f *fields) Intervals {
	cfg := Intervals{
		Observe:     f.duration("observe", 5*time.Second),
		LabelWrites: f.duration("labelWrites", 2*time.Second),
		Progress:    f.duration("progress", 30*time.Second),
		GPU:         f.duration("gpu", time.Minute),
		GPURise:     f.duration("gpuRise", time.Minute),
		GPULeak:     f.duration("gpuLeak", 5*time.Minute),
		Heartbeat:   f.duration("heartbeat", 10*time.Second),
		Verify:      f.duration("verify", 30*time.Second),
		RetryMin:    f.duration("retryMin", 5*time.Second),
		RetryMax:    f.duration("retryMax", 10*time.Minute),
		Residency:   f.duration("residency", 15*time.Second),
		Resync:      f.duration("resync", time.Minute),
		Timeout:     f.duration("timeout", 15*time.Second),
		Leave:       f.duration("leave", 2*time.Minute),
		Grace:       f.duration("grace", 10*time.Minute),
	}
	if cfg.RetryMax < cfg.RetryMin {
		f.complain("retryMax", cfg.RetryMax.String(), "write a duration that is not below retryMin, which is "+cfg.RetryMin.String())
	}
	f.done()
	return cfg
}

// LoadConfig reads the configuration that is in force at start: the file's, or,
// if that is bad, the last good one, which the agent keeps at lastGood. The
// error is the file's if neither can be used.
func LoadConfig(path, lastGood string) (Config, error) {
	cfg, err := loadFile(path, ReadConfigFile)
	if err == nil {
		return cfg, nil
	}
	if kept, keptErr := loadFile(lastGood, store.ReadAgentFile); keptErr == nil {
		return kept, nil
	} else if !errors.Is(keptErr, fs.ErrNotExist) {
		return Config{}, errors.Join(err, fmt.Errorf("the last good configuration cannot be used either: %w", keptErr))
	}
	return Config{}, err
}

// maxConfig bounds the configuration file, in bytes: a ConfigMap holds 1 MiB.
const maxConfig = 16 << 20

// ReadConfigFile reads the configuration file, which Kubernetes mounts through links:
// a regular file of 16 MiB at most.
func ReadConfigFile(path string) ([]byte, error) { return smallfile.Read(path, maxConfig) }

func loadFile(path string, read func(string) ([]byte, error)) (Config, error) {
	data, err := read(path)
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration: %w; name the file with the model list", err)
	}
	cfg, err := ParseConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("read %s: %w", path, err)
	}
	return cfg, nil
}
