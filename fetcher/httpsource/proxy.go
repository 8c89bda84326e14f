package httpsource

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"github.com/stoker-project/stoker/fetcher"
)

// proxySetting is the proxy that one variable of the environment names.
type proxySetting struct {
	variable string // "" if none is set
	url      *url.URL
	err      error // why it cannot be used
}

// Proxy returns an http.Transport's Proxy for the variables of the environment as they
// are now: HTTPS_PROXY and HTTP_PROXY by the scheme of a request, else ALL_PROXY, which
// the Hub's own client and curl know and net/http does not; in lower case they come
// first. NO_PROXY, and that this machine itself is asked directly, are as in net/http.
// So are the metadata services of clouds, which no proxy reaches. A value that cannot
// be used fails the requests that it is for: they must not go past a proxy that
// somebody wanted.
func Proxy() func(*http.Request) (*url.URL, error) {
	secure, plain := readProxy("HTTPS_PROXY"), readProxy("HTTP_PROXY")
	// Of the library only the rules for who is asked directly are used: it passes over
	// values that it cannot read.
	const any = "http://any"
	rules := httpproxy.FromEnvironment()
	rules.HTTPProxy, rules.HTTPSProxy, rules.CGI = any, any, false
	proxied := rules.ProxyFunc()
	return func(req *http.Request) (*url.URL, error) {
		setting := plain
		if req.URL.Scheme == "https" {
			setting = secure
		}
		if setting.variable == "" || isMetadata(req.URL.Hostname()) {
			return nil, nil //nolint:nilnil // directly, as http.Transport has it
		}
		if by, err := proxied(req.URL); by == nil || err != nil {
			return nil, err
		}
		return setting.url, setting.err
	}
}

// readProxy reads the proxy of the variable, or of ALL_PROXY.
func readProxy(name string) proxySetting {
	for _, variable := range []string{strings.ToLower(name), name, "all_proxy", "ALL_PROXY"} {
		value := strings.TrimSpace(os.Getenv(variable))
		if value == "" {
			continue
		}
		s := proxySetting{variable: variable}
		s.url, s.err = parseProxy(variable, value)
		return s
	}
	return proxySetting{}
}

// parseProxy reads a value; errors do not show it, for it may have a password.
func parseProxy(variable, value string) (*url.URL, error) {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	if err == nil && u.Hostname() != "" {
		switch u.Scheme {
		case "http", "https", "socks5", "socks5h":
			return u, nil
		}
	}
	cause := NewCause(variable+" names no proxy that can be used", nil)
	cause.kind, cause.hint = fetcher.ErrMisconfigured, "write it as http://HOST:PORT, or with https, socks5 or socks5h"
	return nil, cause
}

// isMetadata says whether a host is one of the link's own: clouds give their machines
// credentials there.
func isMetadata(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLinkLocalUnicast() || host == "metadata.google.internal"
}

// unanswered is a proxy that lets a request go nowhere.
type unanswered struct {
	status int    // its answer; 0: it speaks SOCKS
	text   string // what it is about
	// maybe is the host that may have answered instead; "": it was the proxy.
	maybe string
}

// Error implements error.
func (u *unanswered) Error() string { return "the proxy " + u.text }

// answeredByProxy words the status with which a proxy refuses. Its status line is not
// repeated.
func answeredByProxy(status int) *unanswered {
	text := fmt.Sprintf("answered %d", status)
	if status == http.StatusProxyAuthRequired {
		text += ", it wants credentials or others"
	}
	return &unanswered{status: status, text: text}
}

// overSOCKS returns what a SOCKS proxy refuses, or nil. net/http's errors of it are of
// no type; the texts are those of Go 1.26.
func overSOCKS(err error) *unanswered {
	var op *net.OpError
	if !errors.As(err, &op) || !strings.HasPrefix(op.Op, "socks") {
		return nil
	}
	text := op.Err.Error()
	for _, known := range []struct{ has, means string }{
		{"authentication", "wants credentials or others"},
		{"not allowed by ruleset", "does not allow it"},
	} {
		if strings.Contains(text, known.has) {
			return &unanswered{status: http.StatusForbidden, text: known.means}
		}
	}
	return &unanswered{text: "does not reach it"}
}

// cause is what a proxy's refusal means, if name is the proxy's. What a proxy forbids
// it forbids the next time, too.
func (u *unanswered) cause(name, variable string) *Cause {
	c := NewCause("the proxy "+name+u.text, nil)
	if u.status == 0 || Passing(u.status) || u.status == http.StatusTooManyRequests {
		return c
	}
	if variable == "" {
		variable = "HTTPS_PROXY"
	}
	c.kind, c.hint = fetcher.ErrRefused, "have whoever runs the proxy let this machine through, or name the host in NO_PROXY; "+variable+" names the proxy"
	if u.maybe != "" {
		c.hint += "; if it is not the proxy that refuses, ask whoever runs " + u.maybe
	}
	if u.status == http.StatusProxyAuthRequired || strings.Contains(u.text, "credentials") {
		c.hint = "put the proxy's user name and password into " + variable + ", before its host"
	}
	return c
}

// refusedOnTheWay returns the refusal of a proxy that looks like the server's, as it does
// over plain HTTP, or nil. X-Squid-Error is Squid's mark of its own answers. Of others a
// 403 is the server's where it has what only sources write; Via tells nothing, which
// proxies add to what they pass on.
func refusedOnTheWay(rt http.RoundTripper, req *http.Request, resp *http.Response) *unanswered {
	if resp.StatusCode == http.StatusProxyAuthRequired {
		return answeredByProxy(resp.StatusCode)
	}
	if resp.StatusCode < http.StatusBadRequest || req.URL.Scheme != "http" {
		return nil
	}
	if proxy := proxyOf(rt, req); proxy == nil || strings.HasPrefix(proxy.Scheme, "socks") {
		return nil
	}
	if resp.Header.Get("X-Squid-Error") != "" {
		return answeredByProxy(resp.StatusCode)
	}
	if resp.StatusCode != http.StatusForbidden || isFromSource(resp.Header) {
		return nil
	}
	refusal := answeredByProxy(resp.StatusCode)
	refusal.text += ", or passed that on"
	refusal.maybe = Host(req.URL)
	return refusal
}

// isFromSource reports whether an answer has what the Hub, S3 or Google Cloud Storage
// writes into its refusals, and a proxy does not.
func isFromSource(header http.Header) bool {
	for _, name := range []string{"X-Error-Code", "X-Error-Message", "X-Repo-Commit", "X-Amz-Request-Id", "X-Amz-Id-2", "X-Amz-Cf-Id", "X-Guploader-Uploadid", "X-Request-Id"} {
		if header.Get(name) != "" {
			return true
		}
	}
	kind := header.Get("Content-Type")
	return strings.HasPrefix(kind, "application/xml") || strings.HasPrefix(kind, "text/xml") || strings.HasPrefix(kind, "application/json")
}

// proxyOf returns the proxy over which rt sends req, or nil.
func proxyOf(rt http.RoundTripper, req *http.Request) *url.URL {
	var find func(*http.Request) (*url.URL, error)
	switch t := rt.(type) {
	case *http.Transport:
		find = t.Proxy
	case *Transport:
		find = t.proxy
	}
	if find == nil {
		return nil
	}
	proxy, err := find(req)
	if err != nil {
		return nil
	}
	return proxy
}

// throughProxy words a refusal of the proxy over which rt sends req, with the proxy's
// name, or returns err as it is.
func throughProxy(rt http.RoundTripper, req *http.Request, err error) error {
	refusal := overSOCKS(err)
	if refusal == nil && !errors.As(err, &refusal) {
		return err
	}
	proxy := proxyOf(rt, req)
	if proxy == nil {
		return refusal.cause("", "")
	}
	variable := readProxy(strings.ToUpper(req.URL.Scheme) + "_PROXY").variable
	name := Host(proxy)
	if variable != "" {
		name += " (" + variable + ")"
	}
	return refusal.cause(name+" ", variable)
}
