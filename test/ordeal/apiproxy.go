package ordeal

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// APIFault is how the way to the API server is broken.
type APIFault struct {
	Gate GateMode
	// Delay of each request.
	Delay time.Duration
	// Status is the answer instead of the server's; OnlyWrites: to PATCH and PUT alone.
	Status     int
	OnlyWrites bool
	// Lost writes reach the server, and their answer reaches nobody.
	Lost bool
}

// APIProxy is how the agent reaches the API server, and nobody else.
type APIProxy struct {
	server    *httptest.Server
	gate      *Gate
	transport *http.Transport

	mu    sync.Mutex
	fault APIFault
}

// NewAPIProxy leads to a server until the test ends. It listens on loopback.
func NewAPIProxy(t *testing.T, to *rest.Config) *APIProxy {
	t.Helper()
	return NewAPIProxyAt(t, to, "127.0.0.1")
}

// NewAPIProxyAt is NewAPIProxy on a free port of an address of this machine.
func NewAPIProxyAt(t *testing.T, to *rest.Config, address string) *APIProxy {
	t.Helper()
	target, err := url.Parse(to.Host)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(to.CAData) {
		t.Fatal("the API server's authority is not in the configuration")
	}
	p := &APIProxy{transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8,
	}}
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	forward := &httputil.ReverseProxy{
		Transport: p.transport, FlushInterval: -1, ErrorLog: quiet,
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
	}
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { p.serve(rw, r, forward) }))
	if err := p.server.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	p.gate = NewGate(newListener(t, address), 0)
	p.server.Listener = p.gate
	p.server.EnableHTTP2 = true
	p.server.Config.ErrorLog = quiet
	p.server.StartTLS()
	t.Cleanup(func() {
		p.Set(APIFault{Gate: GateClosed})
		p.server.Close()
		p.transport.CloseIdleConnections()
	})
	return p
}

// Fault is what is broken now.
func (p *APIProxy) Fault() APIFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// Set breaks, or mends, the way.
func (p *APIProxy) Set(f APIFault) {
	p.mu.Lock()
	p.fault = f
	p.mu.Unlock()
	p.gate.Set(f.Gate)
}

func (p *APIProxy) serve(rw http.ResponseWriter, r *http.Request, forward http.Handler) {
	p.mu.Lock()
	f := p.fault
	p.mu.Unlock()
	write := r.Method == http.MethodPatch || r.Method == http.MethodPut
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case f.Lost && write:
		forward.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case f.Status != 0 && (write || !f.OnlyWrites):
		refuse(rw, f.Status)
	default:
		forward.ServeHTTP(rw, r)
	}
}

// refuse answers as the API server does.
func refuse(rw http.ResponseWriter, status int) {
	reason := map[int]metav1.StatusReason{
		http.StatusConflict: metav1.StatusReasonConflict, http.StatusTooManyRequests: metav1.StatusReasonTooManyRequests,
		http.StatusInternalServerError: metav1.StatusReasonInternalError, http.StatusForbidden: metav1.StatusReasonForbidden,
	}[status]
	body, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Reason: reason, Code: int32(status), Message: "the harness says so",
	})
	if err != nil {
		panic(err) // it is our own type
	}
	rw.Header().Set("Content-Type", "application/json")
	if status == http.StatusTooManyRequests {
		rw.Header().Set("Retry-After", "1")
	}
	rw.WriteHeader(status)
	_, _ = rw.Write(body)
}

// certificateName is in the certificate of every httptest server, at whichever address.
const certificateName = "example.com"

// Kubeconfig rewrites one so that it leads here.
func (p *APIProxy) Kubeconfig(t *testing.T, from, to string) {
	t.Helper()
	config, err := clientcmd.LoadFromFile(from)
	if err != nil {
		t.Fatal(err)
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw})
	for _, c := range config.Clusters {
		c.Server, c.CertificateAuthorityData, c.TLSServerName = p.server.URL, authority, certificateName
	}
	if err := clientcmd.WriteToFile(*config, to); err != nil {
		t.Fatal(err)
	}
}

// newListener listens on a free port of an address of this machine.
func newListener(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}
