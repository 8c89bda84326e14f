package fetcher

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

func TestFar(t *testing.T) {
	for name, c := range map[string]struct {
		way  way
		want bool
	}{
		"nothing is known":                {way{}, false},
		"answers at once":                 {way{answer: time.Millisecond}, false},
		"answers from far":                {way{answer: 40 * time.Millisecond}, true},
		"answers, but busy":               {way{answer: time.Second}, false},
		"near, and this machine is busy":  {way{answer: 100 * time.Millisecond, roundTrip: 50 * time.Microsecond}, false},
		"far, and so busy":                {way{answer: time.Second, roundTrip: 40 * time.Millisecond}, true},
		"far, and answers from a mistake": {way{answer: time.Millisecond, roundTrip: 40 * time.Millisecond}, true},
	} {
		if got := c.way.far(); got != c.want {
			t.Errorf("%s: far is %v", name, got)
		}
	}
}

// The kernel's own measure is known for connections with and without TLS, new and
// kept, and for nothing else.
func TestRoundTrip(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	for name, server := range map[string]*httptest.Server{"plain": httptest.NewServer(answer), "TLS": httptest.NewTLSServer(answer)} {
		defer server.Close()
		for _, which := range []string{"new", "kept"} {
			var roundTrip atomic.Int64
			req, err := http.NewRequestWithContext(measured(t.Context(), &roundTrip), http.MethodGet, server.URL, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil {
				t.Fatal(err)
			}
			if got := time.Duration(roundTrip.Load()); got <= 0 || got >= farRoundTrip {
				t.Errorf("%s, %s: over loopback a round trip takes %s", name, which, got)
			}
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := roundTripOf(a); got != 0 {
		t.Errorf("of a pipe: %s", got)
	}
}

// Small files, which the Hub itself answers, tell nothing of the way of large ones.
func TestAnswered(t *testing.T) {
	p := &pull{woken: make(chan struct{}, 1)}
	p.answered(File{Size: smallSize}, 40*time.Millisecond, 40*time.Millisecond)
	if got := p.known(); got != (way{}) {
		t.Errorf("a small file told %+v", got)
	}
	p.answered(File{Size: smallSize + 1}, 40*time.Millisecond, 0)
	p.answered(File{Size: smallSize + 1}, 120*time.Millisecond, 0)
	if got := p.known(); got.answer != 50*time.Millisecond || !got.far() {
		t.Errorf("answers from far told %+v", got)
	}
	select {
	case <-p.woken:
	default:
		t.Error("the dispatcher does not look")
	}
}
