package httpsource

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Answered words an answer: who, status, code, message, request id. All but the
// status may be empty; codes and request ids of another shape than [ID] admits are
// left out.
func Answered(host string, status int, code, message, requestID string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s answered %d", host, status)
	if code = ID(code); code != "" {
		b.WriteString(" " + code)
	}
	if message = strings.TrimRight(Plain(message), "."); message != "" {
		fmt.Fprintf(&b, " (%s)", message)
	}
	if requestID = ID(requestID); requestID != "" {
		fmt.Fprintf(&b, ", request id %s", requestID)
	}
	return errors.New(b.String())
}

// RetryAfter is how long an answer asks to wait, by Retry-After in seconds or as
// a date; 0 if it does not say. It may be years: whoever waits has a bound.
func RetryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// Passing statuses may be answered otherwise the next time. 501 is not: a server does
// not learn what it is asked.
func Passing(status int) bool {
	return status == http.StatusRequestTimeout || status == http.StatusTooEarly ||
		status >= http.StatusInternalServerError && status != http.StatusNotImplemented
}

// ParseEndpoint reads the address of a server; errors do not show a password.
func ParseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(strings.TrimSpace(s), "/"))
	if err != nil {
		return nil, errors.New("the endpoint is no URL; write it as https://HOST") // err would show what may be a password
	}
	if u.User != nil {
		return nil, fmt.Errorf("the endpoint at %s contains credentials; give them as credentials instead", Host(u))
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("the endpoint %q is no address; write it as https://HOST", Address(u))
	}
	return u, nil
}

// Address writes a URL without what may be a secret.
func Address(u *url.URL) string {
	text := (&url.URL{Scheme: u.Scheme, Opaque: u.Opaque, Host: u.Host, Path: u.Path}).String()
	if u.RawQuery != "" {
		text += "?..."
	}
	if u.Fragment != "" {
		text += "#..."
	}
	return text
}
