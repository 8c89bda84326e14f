package secrets

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// AddEnvironment takes the secrets of the environment's variables: tokens, keys, and
// the credentials of proxies.
func (s *Set) AddEnvironment() {
	for _, name := range []string{
		"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
	} {
		s.Add(os.Getenv(name))
	}
	// Those of which httpsource makes proxies.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		proxy := os.Getenv(name)
		if !strings.Contains(proxy, "://") {
			proxy = "http://" + proxy
		}
		if u, err := url.Parse(proxy); err == nil {
			s.AddUserinfo(u.User)
		}
	}
}

// AddINI takes the secrets of one of AWS's files: every value whose name speaks of a
// key, a token, a secret or a password.
func (s *Set) AddINI(text []byte) {
	for line := range strings.Lines(string(text)) {
		name, v, ok := strings.Cut(line, "=")
		if v = strings.TrimSpace(v); ok && isSecretName(name) && !strings.Contains(v, "://") {
			s.Add(v)
		}
	}
}

// maxFile is more than a file with one token has, in bytes.
const maxFile = 64 << 10

// AddFile takes what is in a file with one secret. A file that cannot be read has
// none for whoever is to use it, either.
func (s *Set) AddFile(path string) {
	if s == nil {
		return
	}
	if text, err := smallfile.Read(path, maxFile); err == nil {
		s.Add(string(text))
	}
}

// AddUserinfo takes the credentials of a URL: the password, or the user where that
// is all, and both as a Basic authorization has them.
func (s *Set) AddUserinfo(u *url.Userinfo) {
	if u == nil {
		return
	}
	password, ok := u.Password()
	if !ok {
		s.Add(u.Username())
	} else {
		s.Add(password)
	}
	pair := u.Username() + ":" + password
	s.Add(pair, base64.StdEncoding.EncodeToString([]byte(pair)))
}

// AddJSON takes the secrets of a credentials file: every text in it whose name
// speaks of a key, a token, a secret or a password, but for addresses.
func (s *Set) AddJSON(text []byte) {
	var v any
	if json.Unmarshal(text, &v) == nil { // else whoever reads the file complains
		s.addNamed("", v)
	}
}

func (s *Set) addNamed(name string, v any) {
	switch v := v.(type) {
	case string:
		if isSecretName(name) && !strings.Contains(v, "://") {
			s.Add(v)
		}
	case map[string]any:
		for k, inner := range v {
			s.addNamed(k, inner)
		}
	case []any:
		for _, inner := range v {
			s.addNamed(name, inner)
		}
	}
}

func isSecretName(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"key", "token", "secret", "password"} {
		if strings.Contains(name, word) && !strings.HasSuffix(name, "type") {
			return true
		}
	}
	return false
}

// secretHeaders are those of a request that may have a secret.
func secretHeaders() []string {
	return []string{"Authorization", "Proxy-Authorization", "X-Amz-Security-Token"}
}

// Transport returns a transport that takes the secrets of each request's headers
// before it sends it, whoever put them there.
func (s *Set) Transport(next http.RoundTripper) http.RoundTripper {
	return &transport{set: s, next: next}
}

type transport struct {
	set  *Set
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	for _, name := range secretHeaders() {
		for _, v := range req.Header.Values(name) {
			if _, credentials, ok := strings.Cut(v, " "); ok && !strings.ContainsAny(credentials, " ,") {
				v = credentials // behind Bearer or Basic
			}
			t.set.Add(v)
		}
	}
	return t.next.RoundTrip(req)
}

// WrappedRoundTripper returns the transport below, for Kubernetes' client.
func (t *transport) WrappedRoundTripper() http.RoundTripper { return t.next }

// CloseIdleConnections closes those of the transport below.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
