package agent

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

func TestHeaderTimeoutOfAnEntry(t *testing.T) {
	for value, want := range map[string]time.Duration{"{}": 0, "{headerTimeout: 30s}": 30 * time.Second, "{headerTimeout: 5m}": 5 * time.Minute} {
		cfg, err := ParseConfig([]byte("models: [{source: 's3://bucket/llama', access: " + value + "}]"))
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.Models[0].Request("/credentials").Access; !reflect.DeepEqual(got, fetcher.Access{HeaderTimeout: want}) {
			t.Errorf("access %s becomes %+v", value, got)
		}
	}
	for value, says := range map[string]string{"{headerTimeout: 29s}": "write at least 30s", "{headerTimeout: 60}": "with a unit", "{timeout: 1m}": "the fields are addressing, unsigned, requesterPays, headerTimeout, caBundle, insecure, etagIsDigest, followLinks"} {
		_, err := ParseConfig([]byte("models: [{source: 's3://bucket/llama', access: " + value + "}]"))
		if err == nil || !strings.Contains(err.Error(), "models[0].access.") || !strings.Contains(err.Error(), says) {
			t.Errorf("access %s is %v, want that it says %q", value, err, says)
		}
	}
}

func TestAccessOfAnEntry(t *testing.T) {
	for access, want := range map[string]fetcher.Access{
		"{}":                    {},
		"{addressing: virtual}": {Addressing: fetcher.AddressingVirtual},
		"{unsigned: true, caBundle: /etc/pki/ca.pem, insecure: true}": {Unsigned: true, CABundle: "/etc/pki/ca.pem", Insecure: true},
		"{requesterPays: true, etagIsDigest: false}":                  {RequesterPays: true, OpaqueETags: true},
		"{etagIsDigest: true, unsigned: false, addressing: auto}":     {Addressing: fetcher.AddressingAuto},
	} {
		cfg, err := ParseConfig([]byte("models: [{source: 's3://bucket/llama', access: " + access + "}]"))
		if err != nil {
			t.Fatal(err)
		}
		m := cfg.Models[0]
		if got := m.Request("/credentials").Access; !reflect.DeepEqual(got, want) {
			t.Errorf("access %s becomes %+v", access, got)
		}
		plain := m
		plain.Access = fetcher.Access{}
		if changed := !reflect.DeepEqual(want, plain.Access); changed != (m.transfer() != plain.transfer()) {
			t.Errorf("access %s: a failure is forgotten: %v, want %v", access, !changed, changed)
		}
	}
}

// A pull that hangs says on what, to those who wait for the model, until a byte comes.
func TestRunningPullSaysWhatHangs(t *testing.T) {
	run := &running{}
	p := &pulls{wake: func() {}}
	hangs := &fetcher.Error{Kind: fetcher.ErrTransient, Op: "list", Origin: "s3://bucket/llama", Err: errors.New("s3.test sent no headers within 30s"), Hint: "check the network"}
	p.progress(run, fetcher.Progress{Phase: fetcher.PhaseListing, Failing: hangs})
	m := Model{Name: "llama"}
	run.state.Transfer = m.transfer()
	s := modelState{Name: "llama", Model: m, Held: true}
	(&planner{}).whileRunning(&s, run.state)
	st := statusOf(s)
	if st.State != string(StatePulling) || st.Reason != "it is tried again: list s3://bucket/llama: s3.test sent no headers within 30s" || st.Hint != "check the network" {
		t.Errorf("status is %+v", st)
	}
	p.progress(run, fetcher.Progress{Phase: fetcher.PhasePulling, BytesDone: 1})
	s = modelState{Name: "llama", Model: m, Held: true}
	(&planner{}).whileRunning(&s, run.state)
	if s.Reason != "" || s.Hint != "" {
		t.Errorf("with a byte, the reason is %q; %q", s.Reason, s.Hint)
	}
}
