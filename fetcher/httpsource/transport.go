package httpsource

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"
)

// NewTransport makes a transport fit for bulk: HTTP/1.1, because one HTTP/2
// connection would carry all files of a model through one TCP window, no
// compression. Its proxies are those of [Proxy]. [Bounds.Transport] bounds its answers. Drivers can share one.
func NewTransport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:               Proxy(),
		DialContext:         (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		Protocols:           protocols,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 15 * time.Second,
		// Answers of 32 connections are read at once, and each header is kept.
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         64 << 10,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			return answeredByProxy(resp.StatusCode)
		},
	}
}

// NoRedirects is an http.Client's CheckRedirect for sources that never send a
// reader elsewhere: what signs or authorizes a request is meant for one host.
func NoRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
