package httpsource_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// A cache that needs three minutes for a file, and tells nothing before, is given them
// by the third try; others keep the usual bound.
func TestHeadersMayTakeLongerNextTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cold := server{headers: 3 * time.Minute, status: http.StatusOK, body: func(context.Context) io.Reader { return strings.NewReader("x") }}
		transport := httpsource.Bounds{Header: time.Minute}.Transport(cold, httpsource.AnyShape)
		for _, waited := range []time.Duration{time.Minute, 2 * time.Minute} {
			var failed [8]error
			var all sync.WaitGroup
			for i := range failed { // together, they count once
				all.Go(func() { failed[i] = openCold(t, transport) })
			}
			all.Wait()
			for _, err := range failed {
				var e *httpsource.Exceeded
				if !errors.As(err, &e) || !errors.Is(e.Kind, fetcher.ErrTransient) || !strings.Contains(e.Error(), "sent no headers within "+waited.String()) ||
					!strings.Contains(e.Hint, "the next try waits "+(2*waited).String()) {
					t.Fatalf("after %s, the error is %v (%+v)", waited, err, e)
				}
			}
		}
		if err := openCold(t, transport); err != nil {
			t.Errorf("the third try: %v", err)
		}
		time.Sleep(2 * time.Hour)
		if err := openCold(t, transport); err == nil || !strings.Contains(err.Error(), "within 1m0s") {
			t.Errorf("hours later, it was given more than usual: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		dead := server{headers: 100 * time.Hour}
		transport := httpsource.Bounds{}.Transport(dead, httpsource.AnyShape)
		began := time.Now()
		for range 8 {
			if err := openCold(t, transport); err == nil {
				t.Fatal("it answered")
			}
		}
		if took := time.Since(began); took != 30*time.Second*(1+2+4+8+10+10+10+10) {
			t.Errorf("8 tries of a server that never answers take %s", took)
		}
	})
}

// openCold asks for one object, at an address that is signed anew for every try.
func openCold(t *testing.T, transport http.RoundTripper) error {
	t.Helper()
	ctx := httpsource.ForObject(t.Context(), 1<<40, 1<<40)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://mirror.test/file?Signature="+time.Now().String()[:10], http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
