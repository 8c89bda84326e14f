package httpsource

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
)

// disagrees reports whether a server ends a handshake by this alert, in the words of
// crypto/tls, because of what the two sides are, not of what happens to them
// (datatracker.ietf.org/doc/html/rfc8446#section-6.2).
func disagrees(alert string) bool {
	switch alert {
	case "handshake failure", "protocol version not supported", "insufficient security level", "unrecognized name",
		"bad certificate", "unknown certificate authority", "access denied", "no application protocol":
		return true
	}
	return false
}

// insecure is the cause of a failure of TLS; nil: it is none. Of texts only those of
// tables in crypto/tls are kept.
func insecure(err error) *Cause {
	const (
		none  = "name an endpoint that demands none: Stoker has none"
		newer = "let the server speak TLS 1.2 or newer, with a cipher that is not broken"
	)
	c := &Cause{is: ErrTLS}
	var record tls.RecordHeaderError
	var alert *net.OpError
	switch isRecord := errors.As(err, &record); {
	case isRecord && (record.Conn != nil || string(record.RecordHeader[:]) == "HTTP/"), errors.Is(err, http.ErrSchemeMismatch):
		// Another later record than one of plain HTTP is a connection that breaks.
		c.text, c.hint = "it does not speak TLS", "write http:// before its name if that is meant, or the port on which it speaks TLS"
	case isRecord:
		return NewCause("TLS: broken record", nil)
	case errors.As(err, &alert) && (alert.Op == "remote error" || alert.Op == "local error"):
		what := strings.TrimPrefix(alert.Err.Error(), "tls: ")
		switch {
		case what == "no renegotiation": // our own
			c.text, c.hint = "it negotiates TLS anew, as servers do that want a certificate of the client", none
		case alert.Op == "local error":
			return NewCause("TLS: "+what, nil)
		case what == "certificate required":
			c.text, c.hint = "it demands a certificate of the client", none
		case disagrees(what):
			c.text, c.hint = "it ends the TLS handshake: "+what, newer
		default:
			return NewCause("it ends TLS: "+what, nil)
		}
	case strings.Contains(err.Error(), "tls: server selected unsupported protocol version"):
		c.text, c.hint = "it speaks an old TLS", newer
	case strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`): // an alert
		c.text, c.hint = "it speaks TLS, and was asked without", "write https:// before its name"
	case strings.Contains(err.Error(), "tls: ") && !strings.Contains(err.Error(), `"`): // what is quoted is an answer
		return NewCause("the TLS handshake failed", nil)
	default:
		return nil
	}
	c.text = proxied(err) + c.text
	return c
}
