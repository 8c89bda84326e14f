package httpsource

import (
	"net"
	"net/http"
	"time"
)

// NewTransport makes a transport fit for bulk: HTTP/1.1, because one HTTP/2
// connection would carry all files of a model through one TCP window, no
// compression, and bounds on everything but the length of a body. Drivers can
// share one.
func NewTransport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		Protocols:             protocols,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		ReadBufferSize:        64 << 10,
	}
}

// NoRedirects is an http.Client's CheckRedirect for sources that never send a
// reader elsewhere: what signs or authorizes a request is meant for one host.
func NoRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
