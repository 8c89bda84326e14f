package httpsource

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// CABundleVariable names a file, or a directory of files, whose certificates vouch for
// the servers of every source, beside the system's.
const CABundleVariable = "STOKER_CA_BUNDLE"

// systemVariable is what this machine's own certificates are replaced by; Go reads it
// as OpenSSL does.
const systemVariable = "SSL_CERT_FILE"

// Trust is which certificate authorities may vouch for a source's servers. Bundles are
// files of PEM certificates, or directories of such files. The zero Trust is the
// system's.
type Trust struct {
	// Instead replaces the system's authorities, as the variables of a source's own
	// tools do; "" keeps them.
	Instead string
	// Beside are bundles that count as well.
	Beside []string
	// Insecure takes any certificate.
	Insecure bool
	// Variable is what people set to name a bundle, for errors; "": SSL_CERT_FILE.
	Variable string
}

// TrustFor returns what access and CABundleVariable ask for.
func TrustFor(access fetcher.Access, variable string) Trust {
	bundles := slices.DeleteFunc([]string{os.Getenv(CABundleVariable), access.CABundle}, func(path string) bool { return path == "" })
	return Trust{Beside: bundles, Insecure: access.Insecure, Variable: variable}
}

// Bounds of bundles: what systems have is a tenth of it.
const (
	maxBundle      = 8 << 20 // bytes of one file
	maxBundleFiles = 2000    // of one directory
)

// errBundle is, within a Cause, a bundle that cannot be used.
var errBundle = errors.New("unusable bundle of certificates")

// Pool reads the bundles; nil without an error is the system's own authorities.
func (t Trust) Pool() (*x509.CertPool, error) {
	if t.Instead == "" && len(t.Beside) == 0 {
		return nil, nil //nolint:nilnil // what tls.Config takes for the system's
	}
	pool := x509.NewCertPool()
	if t.Instead == "" {
		system, err := x509.SystemCertPool()
		if err != nil {
			return nil, NewCause("this machine's certificates cannot be read", errBundle)
		}
		pool = system
	}
	for _, path := range t.bundles() {
		if err := addBundle(pool, path); err != nil {
			return nil, NewCause(fmt.Sprintf("read certificates of authorities: %v", err), errBundle)
		}
	}
	return pool, nil
}

func (t Trust) bundles() []string {
	if t.Instead == "" {
		return t.Beside
	}
	return append([]string{t.Instead}, t.Beside...)
}

// addBundle adds the certificates of a file, or of all files of a directory.
func addBundle(pool *x509.CertPool, path string) error {
	files := []string{path}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		if len(entries) > maxBundleFiles {
			return fmt.Errorf("%s has more than %d files", path, maxBundleFiles)
		}
		files = files[:0]
		for _, e := range entries {
			// Of a mounted ConfigMap, ..data and ..TIMESTAMP are its insides.
			if info, err := os.Stat(filepath.Join(path, e.Name())); err == nil && info.Mode().IsRegular() && !strings.HasPrefix(e.Name(), "..") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
	}
	found := false
	for _, file := range files {
		text, err := smallfile.Read(file, maxBundle)
		if err != nil {
			return err
		}
		found = pool.AppendCertsFromPEM(text) || found
	}
	if !found {
		return fmt.Errorf("%s has no PEM certificate", path)
	}
	return nil
}

// Stamp changes when one of the bundles does.
func (t Trust) Stamp() string {
	var b strings.Builder
	for _, path := range t.bundles() {
		fmt.Fprintf(&b, "%q", path)
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(&b, " %d %d", info.Size(), info.ModTime().UnixNano())
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				fmt.Fprintf(&b, " %d", st.Ino)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Transport is a transport of NewTransport for servers that a Trust accepts. It reads
// bundles again when they change, so that a renewed authority needs no restart.
type Transport struct {
	mu    sync.Mutex
	trust Trust
	stamp string
	base  *http.Transport // nil: none could be made yet
}

// NewTransportFor makes a transport. Bundles are not read before the first request.
func NewTransportFor(t Trust) *Transport { return &Transport{trust: t} }

// Replace has the bundle count instead of the system's authorities; "": none does.
func (t *Transport) Replace(bundle string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.trust.Instead != bundle {
		t.trust.Instead, t.stamp = bundle, ""
		t.drop()
	}
}

// drop forgets the transport that is made; t.mu is held.
func (t *Transport) drop() {
	if t.base != nil {
		t.base.CloseIdleConnections()
	}
	t.base = nil
}

// CloseIdleConnections closes connections that no request uses.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.base != nil {
		t.base.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper. A certificate that is not accepted is a
// [Cause] that names what to set.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	base, trust, err := t.current()
	if err != nil {
		return nil, err
	}
	resp, err := base.RoundTrip(req)
	if err != nil && isCertificate(err) {
		return nil, trust.advise(certificate(err))
	}
	return resp, err
}

// current returns a transport for the bundles as they are now. While a bundle is
// being replaced and cannot be read, the last one stays good.
func (t *Transport) current() (*http.Transport, Trust, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stamp := t.trust.Stamp()
	if t.base != nil && stamp == t.stamp {
		return t.base, t.trust, nil
	}
	pool, err := t.trust.Pool()
	if err != nil {
		if t.base != nil {
			return t.base, t.trust, nil
		}
		return nil, t.trust, err
	}
	t.drop()
	t.base, t.stamp = NewTransport(), stamp
	if pool != nil || t.trust.Insecure {
		t.base.TLSClientConfig = &tls.Config{RootCAs: pool, InsecureSkipVerify: t.trust.Insecure, MinVersion: tls.VersionTLS12} //nolint:gosec // who sets it was told
	}
	return t.base, t.trust, nil
}

// proxy returns the proxy that carries req; nil: none.
func (t *Transport) proxy(req *http.Request) (*url.URL, error) {
	base, _, err := t.current()
	if err != nil {
		return nil, err
	}
	return base.Proxy(req)
}

// advise adds what to set where an authority is not known.
func (t Trust) advise(c *Cause) *Cause {
	if !errors.Is(c, errAuthority) {
		return c
	}
	variable := cmp.Or(t.Variable, systemVariable)
	switch system := os.Getenv(systemVariable); {
	case t.Instead != "":
		c.hint = fmt.Sprintf("add the authority's certificate to %s, which stands for this machine's certificates, or name its file in access.caBundle (--ca-bundle)", t.Instead)
	case len(t.Beside) > 0:
		c.hint = "add the authority's certificate to " + strings.Join(t.Beside, " or ")
	case system != "" && variable == systemVariable:
		c.hint = fmt.Sprintf("add the authority's certificate to %s, which %s names, or name its file in access.caBundle (--ca-bundle)", system, systemVariable)
	default:
		c.hint = fmt.Sprintf("name a file with that authority's certificate in %s, or in access.caBundle of a list entry (--ca-bundle)", variable)
	}
	return c
}
