package shared

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkShared starts 32 agents on one empty volume, then all of them again: what
// is downloaded, how long it takes until all nodes are labelled, and what that costs
// the API server. Intervals of a few hundred milliseconds, so what is written in a
// quiet minute is not what it is in production; the table in README.md says both.
func BenchmarkShared(b *testing.B) {
	const agents, size = 32, 256 << 20
	c := startCluster(b)
	binary := build(b)
	for b.Loop() {
		f := newFleet(b, c, binary, agents)
		f.push("model", size)
		f.models("model")
		writes := f.writes()
		began := time.Now()
		f.startAll()
		f.waitLabels("model", "shared")
		b.ReportMetric(time.Since(began).Seconds(), "s-cold")
		b.ReportMetric(float64(f.sent())/size, "copies-cold")
		b.ReportMetric(float64(f.writes()-writes)/agents, "writes-cold/agent")
		f.check()

		sent := f.sent()
		seen := f.watchLabels("model")
		writes, began = f.writes(), time.Now()
		for _, m := range f.members {
			m.kill()
		}
		f.startAll()
		for _, m := range f.members {
			f.wait(m.node+" to speak again", func() bool { return strings.Count(m.text(), "said for the first time") == 2 })
		}
		b.ReportMetric(time.Since(began).Seconds(), "s-again")
		f.waitWriterBegan(began)
		b.ReportMetric(float64(f.sent()-sent), "B-again")
		b.ReportMetric(float64(f.writes()-writes)/agents, "writes-again/agent")
		if lost := seen(); len(lost) > 0 {
			b.Errorf("these nodes lost their label: %v", lost)
		}
		f.check()
		for _, m := range f.members {
			m.kill()
		}
	}
}

// writes counts what the API server was asked to write of Nodes, Leases and events.
func (f *fleet) writes() int {
	f.Helper()
	text, err := f.cluster.Client().CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	sum := 0
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if !strings.HasPrefix(line, "apiserver_request_total{") {
			continue
		}
		is := func(key string, values ...string) bool {
			for _, v := range values {
				if strings.Contains(line, key+`="`+v+`"`) {
					return true
				}
			}
			return false
		}
		if !is("verb", "APPLY", "PATCH", "PUT", "POST") || !is("resource", "nodes", "leases", "events") {
			continue
		}
		n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			f.Fatal(err)
		}
		sum += int(n)
	}
	return sum
}
