package gpu

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"
)

// fileLimit is the size of the largest file that describes a board, in bytes.
const fileLimit = 1 << 20

// reload reads the file anew, by content: what replaces a file, a ConfigMap's
// links among it, need not change its time.
func (s *simulated) reload() error {
	content, err := readLimited(s.path)
	if err != nil {
		// Its steps begin anew when it is back.
		s.content, s.since = nil, time.Time{}
		return fmt.Errorf("read the simulated GPUs: %w", err)
	}
	if s.since.IsZero() || !bytes.Equal(content, s.content) {
		s.content, s.since = content, time.Now()
		if s.script, s.err = parseScript(content, s.board.gpus); s.err == nil {
			s.err = s.script.check(s.list)
		}
	}
	if s.err != nil {
		return fmt.Errorf("read the simulated GPUs from %s: %w", s.path, s.err)
	}
	return nil
}

// readLimited reads a regular file. Opening waits for nobody: a pipe without a writer
// would hold the reader, and whoever waits for it, for good.
func readLimited(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	var content []byte
	if err == nil {
		content, err = io.ReadAll(io.LimitReader(f, fileLimit+1))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(content) > fileLimit {
		return nil, fmt.Errorf("%s is larger than %s", path, FormatSize(fileLimit))
	}
	return content, nil
}

// parseScript reads a file for a board of so many GPUs. The error has a line
// for each bad field.
func parseScript(content []byte, gpus int) (script, error) {
	asJSON, err := yaml.YAMLToJSONStrict(content)
	if err != nil {
		return script{}, fmt.Errorf("it is not YAML: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
	var document any
	decoder := json.NewDecoder(bytes.NewReader(asJSON))
	decoder.UseNumber() // large sizes keep every digit
	if err := decoder.Decode(&document); err != nil {
		return script{}, err
	}
	if document == nil {
		// As a file is while an editor writes it.
		return script{}, errors.New("it is empty; write {} for a board with nothing special")
	}
	p := &scriptParser{gpus: gpus}
	top := p.mapping("", document)
	var s script
	s.frames = append(s.frames, p.frame(top))
	steps, _ := top.take("steps")
	for i, step := range p.list("steps", steps) {
		m := p.mapping(fmt.Sprintf("steps.%d", i), step)
		after := p.after(m)
		if last := s.frames[len(s.frames)-1].after; after < last {
			p.bad(m.name("after"), after.String(), "comes before the "+last.String()+" of the step above; write steps in their order")
		}
		f := p.frame(m)
		f.after = after
		s.frames = append(s.frames, f)
		m.done()
	}
	top.done()
	return s, errors.Join(p.errs...)
}

// scriptParser reads by hand instead of into structs, because a decoder stops at
// its first complaint and does not say where a value stands.
type scriptParser struct {
	gpus int
	errs []error
}

func (p *scriptParser) bad(field string, value any, want string) {
	shown, err := json.Marshal(value)
	if err != nil {
		shown = fmt.Append(nil, value)
	}
	if len(shown) > 100 {
		shown = append(shown[:100:100], "..."...)
	}
	p.errs = append(p.errs, fmt.Errorf("%s: %s %s", field, shown, want))
}

// mapping is one mapping of the file.
type mapping struct {
	p     *scriptParser
	path  string
	m     map[string]any
	known []string
}

func (p *scriptParser) mapping(path string, v any) *mapping {
	out := &mapping{p: p, path: path}
	var ok bool
	if out.m, ok = v.(map[string]any); !ok && v != nil {
		p.bad(cmp.Or(path, "the file"), v, "is no mapping of keys and values")
	}
	return out
}

func (p *scriptParser) list(path string, v any) []any {
	list, ok := v.([]any)
	if !ok && v != nil {
		p.bad(path, v, "is no list")
	}
	return list
}

func (m *mapping) name(key string) string { return strings.TrimPrefix(m.path+"."+key, ".") }

// take returns the value of a key, and whether it is there.
func (m *mapping) take(key string) (any, bool) {
	m.known = append(m.known, key)
	v, ok := m.m[key]
	return v, ok && v != nil
}

// done complains of keys that nobody took.
func (m *mapping) done() {
	for _, key := range slices.Sorted(maps.Keys(m.m)) {
		if !slices.Contains(m.known, key) {
			m.p.bad(m.name(key), m.m[key], "is unknown here; the fields are "+strings.Join(m.known, ", "))
		}
	}
}

func (p *scriptParser) after(m *mapping) time.Duration {
	v, ok := m.take("after")
	if text, isText := v.(string); isText {
		if d, err := time.ParseDuration(text); err == nil && d >= 0 {
			return d
		}
	}
	if !ok {
		p.bad(m.name("after"), nil, "is missing; want a duration, like 30s")
		return 0
	}
	p.bad(m.name("after"), v, "is no duration; want one like 30s or 5m")
	return 0
}

// frame reads what the file and each of its steps may say.
func (p *scriptParser) frame(m *mapping) frame {
	f := frame{devices: map[int]override{}}
	if v, ok := m.take("error"); ok {
		kind, isText := v.(string)
		err, known := kinds()[kind]
		if !known && kind != "none" || !isText || kind == "lost" || kind == "unsupported" {
			p.bad(m.name("error"), v, "is none of none, no-driver, version-mismatch, no-permission, timeout, unknown-error")
		}
		f.failure, f.setsFailure = err, true
	}
	if v, ok := m.take("all"); ok {
		f.all = p.override(p.mapping(m.name("all"), v), false)
	}
	v, _ := m.take("devices")
	devices := p.mapping(m.name("devices"), v)
	for _, key := range slices.Sorted(maps.Keys(devices.m)) {
		index, err := strconv.Atoi(key)
		if err != nil || index < 0 || index >= p.gpus || strconv.Itoa(index) != key {
			p.bad(devices.name(key), key, fmt.Sprintf("is no GPU of this board; its indexes are 0 to %d", p.gpus-1))
			continue
		}
		f.devices[index] = p.override(p.mapping(devices.name(key), devices.m[key]), false)
	}
	return f
}

// override reads what is said of a device, or of a part of one.
func (p *scriptParser) override(m *mapping, part bool) override {
	o := override{path: m.path}
	if part {
		if v, ok := m.take("profile"); !ok {
			p.bad(m.name("profile"), nil, "is missing; want the MIG profile, like 1g.18gb")
		} else if o.profile, ok = v.(string); !ok || o.profile == "" {
			p.bad(m.name("profile"), v, "is no MIG profile; want one like 1g.18gb")
		}
		if o.total = p.size(m, "memory"); o.total == nil {
			p.bad(m.name("memory"), m.m["memory"], "is no size of a part; want one, like 16GiB")
			o.total = new(uint64)
		}
	}
	o.free = p.size(m, "free")
	o.state = choice(p, m, "state", StateOK, StateLost, StateResetRequired, StateNoPermission, StateUnknown)
	o.mode = choice(p, m, "computeMode", ComputeDefault, ComputeExclusive, ComputeProhibited)
	if v, ok := m.take("processes"); ok {
		o.processes = p.processes(m.name("processes"), v)
	}
	if !part {
		if v, ok := m.take("ecc"); ok {
			o.ecc = p.ecc(p.mapping(m.name("ecc"), v))
		}
		o.fabric = choice(p, m, "fabric", FabricNotStarted, FabricInProgress, FabricCompleted, FabricFailed)
		if v, ok := m.take("mig"); ok {
			o.mig = p.layout(m.name("mig"), v)
		}
	}
	m.done()
	return o
}

func (p *scriptParser) size(m *mapping, key string) *uint64 {
	v, ok := m.take(key)
	if !ok {
		return nil
	}
	n, err := ParseSize(fmt.Sprint(v))
	if _, isText := v.(string); err != nil || !isText && !isNumber(v) {
		p.bad(m.name(key), v, "is no size; want a number and a unit, like 2GiB or 500MiB")
		return nil
	}
	return &n
}

func choice[T ~string](p *scriptParser, m *mapping, key string, of ...T) *T {
	v, ok := m.take(key)
	if !ok {
		return nil
	}
	var names []string
	for _, c := range of {
		if v == string(c) {
			return &c
		}
		names = append(names, string(c))
	}
	p.bad(m.name(key), v, "is none of "+strings.Join(names, ", "))
	return nil
}

func (p *scriptParser) processes(path string, v any) *processes {
	if v == "unknown" {
		return &processes{unknown: true}
	}
	if _, ok := v.([]any); !ok {
		p.bad(path, v, "is neither a list of processes nor the word unknown")
		return nil
	}
	out := &processes{list: []Process{}}
	for i, one := range p.list(path, v) {
		m := p.mapping(fmt.Sprintf("%s.%d", path, i), one)
		pid, _ := p.number(m, "pid")
		if pid == 0 || pid > 1<<22 { // Linux's own limit
			p.bad(m.name("pid"), m.m["pid"], "is no process ID; want a number from 1")
		}
		process := Process{PID: uint32(pid), MPS: p.truth(m, "mps")}
		if used := p.size(m, "used"); used != nil {
			process.UsedBytes, process.UsedKnown = *used, true
		}
		m.done()
		out.list = append(out.list, process)
	}
	return out
}

func (p *scriptParser) ecc(m *mapping) *ECC {
	e := &ECC{UncorrectedKnown: true, RepairKnown: true}
	if n, ok := p.number(m, "uncorrectedErrors"); ok {
		e.UncorrectedErrors = n
	}
	e.RepairPending = p.truth(m, "repairPending")
	e.RepairFailed = p.truth(m, "repairFailed")
	m.done()
	return e
}

func (p *scriptParser) layout(path string, v any) *layout {
	if v == false {
		return &layout{}
	}
	if _, ok := v.([]any); !ok {
		p.bad(path, v, "is neither a list of parts nor false")
		return nil
	}
	out := &layout{on: true}
	for i, part := range p.list(path, v) {
		out.parts = append(out.parts, p.override(p.mapping(fmt.Sprintf("%s.%d", path, i), part), true))
	}
	return out
}

func (p *scriptParser) number(m *mapping, key string) (uint64, bool) {
	v, ok := m.take(key)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(fmt.Sprint(v), 10, 64)
	if err != nil || !isNumber(v) {
		p.bad(m.name(key), v, "is no whole number")
		return 0, false
	}
	return n, true
}

func (p *scriptParser) truth(m *mapping, key string) bool {
	v, ok := m.take(key)
	b, isBool := v.(bool)
	if ok && !isBool {
		p.bad(m.name(key), v, "is neither true nor false")
	}
	return b
}

func isNumber(v any) bool {
	_, ok := v.(json.Number)
	return ok
}
