package httpsource

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// Cause is why an exchange failed, in our own words: errors of net/http, of TLS and
// of decoders quote what the remote side sent, which may be the credential that it
// was sent before.
type Cause struct {
	text string
	is   error  // what errors.Is finds; nil: nothing
	hint string // what to do about it; "": what the caller knows
	kind error  // nil: fetcher.ErrTransient, unless is says more
}

// ErrCertificate is, within a Cause, a server whose certificate this machine does
// not accept. Asking again changes nothing until somebody acts.
var ErrCertificate = errors.New("its certificate is not accepted")

// ErrTLS is, within a Cause, a server with which there is no common TLS, or none where
// the other side expects it. Asking again changes nothing until somebody acts.
var ErrTLS = errors.New("there is no common TLS")

// errAuthority is an ErrCertificate whose signer is not known.
var errAuthority = fmt.Errorf("by an unknown authority: %w", ErrCertificate)

// NewCause returns a cause with this text, which nothing of a remote side may be in.
// errors.Is finds is, if that is not nil.
func NewCause(text string, is error) *Cause { return &Cause{text: text, is: is} }

// Error implements error.
func (c *Cause) Error() string { return c.text }

// Unwrap returns what the cause is one of.
func (c *Cause) Unwrap() error { return c.is }

// Reword returns the cause of an error of a transport or of a body. A cause that is
// one already stays as it is.
func Reword(err error) *Cause {
	var own *Cause
	var dns *net.DNSError
	var errno syscall.Errno
	var header textproto.ProtocolError
	var timeout interface{ Timeout() bool }
	var proxy *unanswered
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &proxy):
		return proxy.cause("", "")
	case errors.Is(err, context.Canceled):
		return NewCause(context.Canceled.Error(), context.Canceled)
	case errors.As(err, &dns):
		return NewCause(proxied(err)+lookedUp(dns), nil)
	case errors.As(err, &errno):
		return NewCause(proxied(err)+errno.Error(), errno)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return NewCause(proxied(err)+"no answer in time", os.ErrDeadlineExceeded)
	case isCertificate(err):
		return certificate(err)
	case insecure(err) != nil:
		return insecure(err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return NewCause(io.ErrUnexpectedEOF.Error(), io.ErrUnexpectedEOF)
	case errors.As(err, &header):
		return NewCause("broken HTTP answer: header", nil)
	case errors.Is(err, io.EOF): // last: it is where a header ends early, too
		return NewCause("closed without an answer", io.EOF)
	}
	return NewCause(broken(err), nil)
}

// lookedUp words a failed look-up of a name.
func lookedUp(e *net.DNSError) string {
	switch {
	case e.IsNotFound:
		return "no such host"
	case e.IsTimeout:
		return "the name server does not answer in time"
	}
	return "its address cannot be looked up"
}

// proxied says so where it was the proxy that was to be reached.
func proxied(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "proxyconnect" {
		return "connect to the proxy: "
	}
	return ""
}

func isCertificate(err error) bool {
	var verification *tls.CertificateVerificationError
	return errors.As(err, &verification) || strings.Contains(err.Error(), "x509: ")
}

// certificate words what is wrong with a certificate, which has names in it that
// the remote side chose.
func certificate(err error) *Cause {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	c := &Cause{text: "its certificate cannot be used", is: ErrCertificate, hint: "replace the server's certificate"}
	switch {
	case errors.As(err, &name):
		c.text = "its certificate is for another name"
		c.hint = "write the endpoint with a name that the server's certificate has"
	case errors.As(err, &authority):
		c.text, c.is = "its certificate is signed by an unknown authority", errAuthority
		c.hint = "name a file with that authority's certificate in " + systemVariable
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		c.text = "its certificate has expired, or is not valid yet"
		c.hint = "check this machine's clock, and renew the server's certificate"
	}
	c.text = proxied(err) + c.text
	return c
}

// broken names the part of an answer that net/http could not read. Its errors are
// of no type; the texts are those of Go 1.26, and what has another is an answer that
// is broken somewhere.
func broken(err error) string {
	text := err.Error()
	for _, known := range []struct{ has, part string }{
		{"gzip:", "compression"},
		{"flate:", "compression"},
		{"malformed HTTP", "status line"},
		{"Content-Length", "Content-Length"},
		{"transfer encoding", "transfer encoding"},
		{"chunk", "chunked body"},
		{"response headers exceeded", "too many headers"},
		{"MIME header", "header"},
		{"header", "header"},
		{"ocation", "redirect"},
	} {
		if strings.Contains(text, known.has) {
			return "broken HTTP answer: " + known.part
		}
	}
	return "broken HTTP answer"
}

// Host names a URL's host and port for an error. What has another shape than names
// have is not repeated: a redirect may lead anywhere.
func Host(u *url.URL) string {
	if u == nil || u.Host == "" || len(u.Host) > maxHost {
		return "another host"
	}
	for _, c := range []byte(u.Host) {
		if !isIDByte(c) && c != ':' && c != '[' && c != ']' {
			return "another host"
		}
	}
	return u.Host
}

// maxHost is a DNS name and a port.
const maxHost = 253 + 6
