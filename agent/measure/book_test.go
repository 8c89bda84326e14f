package measure

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/gpu/sizing"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func record(pod string, beside uint64, namespace string) Record {
	return Record{
		Pod: pod, Namespace: namespace, Trusted: namespace != "", Model: "m", Revision: "r1", GPU: "NVIDIA H200", TotalBytes: 140 << 30, TensorParallel: 1,
		VLLMVersion: "0.33.1", GPUMemoryUtilization: 0.92, KVCacheDtype: "bfloat16", CacheTokens: 1 << 20, BesideBytes: beside, At: noon, Seen: noon,
	}
}

var h200 = sizing.DeviceMemory{Name: "NVIDIA H200", TotalBytes: 141 << 30, UsableBytes: 140 << 30}

func TestBeside(t *testing.T) {
	other := func(change func(r *Record)) Record {
		r := record("other", 9<<30, "team-a")
		change(&r)
		return r
	}
	for _, tt := range []struct {
		name    string
		records []Record
		want    sizing.Measured
	}{
		{"none", nil, sizing.Measured{}},
		{"the most of others", []Record{record("a", 2<<30, ""), record("b", 3<<30, "")}, sizing.Measured{BesideBytes: 3 << 30}},
		{"the most of trusted ones", []Record{record("a", 2<<30, "team-a"), record("b", 3<<30, "team-a")}, sizing.Measured{BesideBytes: 3 << 30, Trusted: true}},
		{"trusted ones alone, first", []Record{record("a", 2<<30, "team-a"), record("b", 9<<30, "")}, sizing.Measured{BesideBytes: 2 << 30, Trusted: true}},
		{"trusted ones alone, last", []Record{record("b", 9<<30, ""), record("a", 2<<30, "team-a")}, sizing.Measured{BesideBytes: 2 << 30, Trusted: true}},
		{"a trusted one of another release", []Record{other(func(r *Record) { r.VLLMVersion = "0.32.0" })}, sizing.Measured{BesideBytes: 9 << 30}},
		{"a trusted one of a newer release", []Record{other(func(r *Record) { r.VLLMVersion = "0.99.0" })}, sizing.Measured{BesideBytes: 9 << 30}},
		{"a trusted one of no known release", []Record{other(func(r *Record) { r.VLLMVersion = "" })}, sizing.Measured{BesideBytes: 9 << 30}},
		{"another release beside the same", []Record{other(func(r *Record) { r.VLLMVersion = "0.32.0" }), record("a", 2<<30, "team-a")}, sizing.Measured{BesideBytes: 2 << 30, Trusted: true}},
		{"another model", []Record{other(func(r *Record) { r.Model = "n" })}, sizing.Measured{}},
		{"another revision", []Record{other(func(r *Record) { r.Revision = "r2" })}, sizing.Measured{}},
		{"another GPU", []Record{other(func(r *Record) { r.GPU = "NVIDIA H100" })}, sizing.Measured{}},
		{"another memory", []Record{other(func(r *Record) { r.TotalBytes = 80 << 30 })}, sizing.Measured{}},
		{"more GPUs", []Record{other(func(r *Record) { r.TensorParallel = 2 })}, sizing.Measured{}},
		{"one pod twice", []Record{record("a", 9<<30, ""), record("a", 2<<30, "")}, sizing.Measured{BesideBytes: 2 << 30}},
		{"what cannot be", []Record{other(func(r *Record) { r.BesideBytes = 200 << 30 })}, sizing.Measured{}},
	} {
		var b Book
		for _, r := range tt.records {
			b = b.With(r)
		}
		if got := b.Beside("m", "r1", h200, 1, "0.33"); got != tt.want {
			t.Errorf("%s: %+v; want %+v", tt.name, got, tt.want)
		}
	}
}

// TestKeep: a record ends with its revision, and some time after its pod; sooner where its namespace is not trusted.
func TestKeep(t *testing.T) {
	all := Present{
		Now: noon, Pods: map[string]bool{"a": true}, PodsKnown: true, Revisions: map[string]string{"m": "r1"}, RevisionsKnown: true,
		Trusted: func(ns string) bool { return ns == "team-a" },
	}
	with := func(change func(p *Present)) Present {
		p := all
		change(&p)
		return p
	}
	after := func(d time.Duration, pods ...string) Present {
		return with(func(p *Present) {
			p.Now, p.Pods = noon.Add(d), map[string]bool{}
			for _, pod := range pods {
				p.Pods[pod] = true
			}
		})
	}
	for _, tt := range []struct {
		name    string
		record  Record
		present Present
		keeps   bool
		trusted bool
	}{
		{"here", record("a", 1, ""), all, true, false},
		{"here for a year", record("a", 1, ""), after(365*24*time.Hour, "a"), true, false},
		{"gone for an hour", record("a", 1, ""), after(time.Hour), true, false},
		{"gone for longer", record("a", 1, ""), after(time.Hour + seenStep), false, false},
		{"trusted, gone for a day", record("a", 1, "team-a"), after(24 * time.Hour), true, true},
		{"trusted, gone for longer", record("a", 1, "team-a"), after(KeepTrusted + seenStep), false, true},
		{"no longer trusted", record("a", 1, "team-b"), all, true, false},
		{"no longer trusted, gone for longer", record("a", 1, "team-b"), after(24 * time.Hour), false, false},
		{"another revision", record("a", 1, "team-a"), with(func(p *Present) { p.Revisions = map[string]string{"m": "r2"} }), false, true},
		{"no model", record("a", 1, "team-a"), with(func(p *Present) { p.Revisions = nil }), false, true},
		{"the store is not known", record("a", 1, "team-a"), with(func(p *Present) { p.Revisions, p.RevisionsKnown = nil, false }), true, true},
		{"the pods are not known", record("a", 1, ""), with(func(p *Present) { p.Pods, p.PodsKnown = nil, false }), true, false},
		{"the clock was ahead", record("a", 1, ""), after(-48 * time.Hour), true, false},
	} {
		got := Book{}.With(tt.record).Keep(tt.present)
		if keeps := len(got.records) == 1; keeps != tt.keeps {
			t.Errorf("%s: kept %t; want %t", tt.name, keeps, tt.keeps)
			continue
		}
		if tt.keeps && (got.records[0].Trusted != tt.trusted || got.records[0].Trusted != (got.records[0].Namespace != "") || got.records[0].Seen.After(tt.present.Now)) {
			t.Errorf("%s: %+v", tt.name, got.records[0])
		}
		if again := got.Keep(tt.present); !again.Equal(got) {
			t.Errorf("%s: keeping again changes it: %+v, %+v", tt.name, got, again)
		}
	}
}

// TestBookIsBounded: pods that nobody trusts drive out none of those that are, nor those of other models.
func TestBookIsBounded(t *testing.T) {
	b := Book{}.With(record("trusted", 1, "team-a"))
	quiet := record("quiet", 1, "")
	quiet.Model = "n"
	b = b.With(quiet)
	for i := range 200 {
		r := record(fmt.Sprintf("flood-%d", i), uint64(i+1), "")
		r.Seen = noon.Add(time.Duration(i) * time.Second)
		b = b.With(r)
	}
	if n := len(b.Records("m", "r1")); n != perModel+1 || len(b.Records("n", "r1")) != 1 {
		t.Errorf("%d records of m, %d of n", n, len(b.Records("n", "r1")))
	}
	if !slices.ContainsFunc(b.records, func(r Record) bool { return r.Trusted }) {
		t.Error("the trusted one is gone")
	}
}

func TestBookSurvives(t *testing.T) {
	b := Book{}.With(record("a", 1, "team-a")).With(record("b", 2, ""))
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseBook(data)
	if err != nil || !got.Equal(b) || got.Equal(Book{}) {
		t.Errorf("%+v, %v; want %+v", got, err, b)
	}
	for _, bad := range []string{"", "{}", `{"version":2}`, `[]`, `{"version":1,"records":{}}`} {
		if got, err := ParseBook([]byte(bad)); err == nil {
			t.Errorf("%q is a book: %+v", bad, got)
		}
	}
	for name, text := range map[string]string{
		"a line break": strings.Replace(string(data), `"a"`, `"a\n"`, 1),
		"no pod":       strings.Replace(string(data), `"a"`, `""`, 1),
		"a share":      strings.Replace(string(data), `0.92`, `7`, 1),
		"no GPU":       strings.Replace(string(data), `"tensorParallel":1`, `"tensorParallel":-1`, 1),
	} {
		if got, err := ParseBook([]byte(text)); err != nil || len(got.records) != 1 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// FuzzBook: whatever stands in the file, what is read of it can be written and read again.
func FuzzBook(f *testing.F) {
	data, err := Book{}.With(record("a", 1, "team-a")).With(record("b", 2, "")).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := ParseBook(text)
		if err != nil {
			return
		}
		data, err := b.Encode()
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if again, err := ParseBook(data); err != nil || !again.Equal(b) {
			t.Errorf("%q: %+v, and then %+v, %v", text, b, again, err)
		}
	})
}
