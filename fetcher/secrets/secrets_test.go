package secrets_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher/secrets"
)

const (
	token  = "hf-like.Token_of+no/pattern=12"
	quoted = `pass"word\with&signs`
)

// shown are the ways in which a text may repeat a secret.
func shown(secret string) map[string]string {
	inJSON, _ := json.Marshal(secret) //nolint:errchkjson // a string
	return map[string]string{
		"as it is": secret, "upper case": strings.ToUpper(secret), "lower case": strings.ToLower(secret),
		"query": url.QueryEscape(secret), "path": url.PathEscape(secret), "lower-case escapes": strings.ToLower(url.QueryEscape(secret)),
		"quoted": strconv.Quote(secret), "JSON": string(inJSON), "HTML": html.EscapeString(secret),
		"base64": base64.StdEncoding.EncodeToString([]byte(secret)), "URL base64": base64.URLEncoding.EncodeToString([]byte(secret)),
		"base64 behind 1": base64.StdEncoding.EncodeToString([]byte("a" + secret)), "base64 behind 2": base64.StdEncoding.EncodeToString([]byte("ab" + secret + "c")),
		"twice": secret + secret,
	}
}

func TestScrub(t *testing.T) {
	for _, secret := range []string{token, quoted, "12345678"} {
		s := secrets.New()
		s.Add(secret)
		for name, form := range shown(secret) {
			for _, text := range []string{form, "got " + form + " back", "x" + form + "x", "ä" + form + "ä\n", strings.Repeat("long ", 100) + form} {
				got := s.Scrub(text)
				if strings.Contains(strings.ToLower(got), strings.ToLower(strings.Trim(form, `"=`))) || !strings.Contains(got, secrets.Hidden) {
					t.Errorf("%s: %q becomes %q", name, text, got)
				}
				if again := s.Scrub(got); again != got {
					t.Errorf("%s: a second time, %q becomes %q", name, got, again)
				}
				if !s.Has(text) {
					t.Errorf("%s: not found in %q", name, text)
				}
			}
		}
		const plain = "list hf://Qwen/Qwen2.5@main: huggingface.co answered 404 RepoNotFound, request id Root=1-abc; check the spelling"
		if got := s.Scrub(plain); got != plain || s.Has(plain) {
			t.Errorf("a text without it becomes %q", got)
		}
	}
}

// A short value is a word like others, but where only a secret stands.
func TestShortValues(t *testing.T) {
	s := secrets.New()
	s.Add("main")
	for text, hidden := range map[string]bool{
		"pull hf://Qwen/Qwen2.5@main":     false,
		"the maintainer of main.go":       false,
		"user:main@proxy:3128":            true,
		"ftp://main@proxy":                true,
		"ftp://main:x@proxy":              true,
		"X-Key: main":                     true,
		`got "Authorization: Token main"`: true,
		`malformed header "X-Key: main"`:  true,
		"Basic main":                      true,
		"Basic mainline":                  false,
		"Basic " + base64.StdEncoding.EncodeToString([]byte("main")): true,
	} {
		if got := s.Scrub(text); (got != text) != hidden {
			t.Errorf("%q becomes %q, want hidden: %v", text, got, hidden)
		}
	}
}

// Secrets that nobody registered, by what they look like.
func TestPatterns(t *testing.T) {
	var none *secrets.Set
	none.Add("nothing happens")
	for in, secret := range map[string]string{
		"token hf_AbCdEf012345 refused":                      "AbCdEf012345",
		"get https://u:p4ss@host/x: 403":                     "p4ss",
		"get https://onlyuser@host/x: 403":                   "onlyuser",
		"get https://cdn/x?X-Amz-Signature=deadbeef&y=1":     "deadbeef",
		"get https://cdn/x?Expires=1&Signature=abc123~&Key=": "abc123",
		"header Authorization: s3cr3t":                       "s3cr3t",
	} {
		if got := none.Scrub(in); strings.Contains(got, secret) {
			t.Errorf("%q becomes %q", in, got)
		}
	}
	for _, plain := range []string{"pull hf://Qwen/Qwen2.5@main: refused by the source: 404", "pull hf://name@main", "no authorization for this"} {
		if got := none.Scrub(plain); got != plain {
			t.Errorf("%q becomes %q", plain, got)
		}
	}
}

// A private key has several lines; its frame is no secret.
func TestCredentialsFile(t *testing.T) {
	s := secrets.New()
	s.AddJSON([]byte(`{"type":"service_account","client_email":"a@b.example","token_uri":"https://oauth2.example/token",
		"private_key":"-----BEGIN PRIVATE KEY-----\nFIRSTLINEOFKEY01\nSECONDLINEOFKEY2\n-----END PRIVATE KEY-----\n",
		"nested":[{"refresh_token":"refresh-token-1"}]}`))
	for text, secret := range map[string]bool{
		"FIRSTLINEOFKEY01": true, "SECONDLINEOFKEY2": true, "refresh-token-1": true,
		"-----BEGIN PRIVATE KEY-----": false, "a@b.example": false, "https://oauth2.example/token": false, "service_account": false,
	} {
		if s.Has(text) != secret {
			t.Errorf("%q is a secret: %v, want %v", text, !secret, secret)
		}
	}
}

// AWS's files have names that speak of what their values are.
func TestConfigurationFile(t *testing.T) {
	s := secrets.New()
	s.AddINI([]byte("[default]\nregion = eu-test-1\naws_access_key_id=KEYOFSOMEBODY01\naws_secret_access_key = of/somebody+=1\r\naws_session_token=of-a-session\nsso_start_url = https://sso.example/token\n"))
	for text, secret := range map[string]bool{
		"KEYOFSOMEBODY01": true, "of/somebody+=1": true, "of-a-session": true, "eu-test-1": false, "https://sso.example/token": false,
	} {
		if s.Has(text) != secret {
			t.Errorf("%q is a secret: %v, want %v", text, !secret, secret)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret/of+aws/12345")
	t.Setenv("https_proxy", "http://someone:pr0xyPassw0rd@proxy.example:3128")
	t.Setenv("http_proxy", "onlytoken12@proxy.example:3128")
	s := secrets.New()
	s.AddEnvironment()
	for _, text := range []string{
		"secret/of+aws/12345", "pr0xyPassw0rd", "Basic " + base64.StdEncoding.EncodeToString([]byte("someone:pr0xyPassw0rd")), "onlytoken12",
	} {
		if !s.Has(text) {
			t.Errorf("%q is not known", text)
		}
	}
}

// Whoever puts a credential into a request, it is known before it is sent.
func TestTransport(t *testing.T) {
	s := secrets.New()
	sent := false
	transport := s.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
		sent = s.Has("repeats access-token-1") && s.Has("repeats session-token-1")
		return nil, errors.New("no answer")
	}))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:1", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer access-token-1")
	req.Header.Set("X-Amz-Security-Token", "session-token-1")
	if _, err := transport.RoundTrip(req); err == nil || !sent {
		t.Errorf("when it was sent, all was known: %v, %v", sent, err)
	}
	if s.Has("Bearer") {
		t.Error("the scheme is taken for a secret")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Tokens that are renewed for as long as a process runs fill no memory.
func TestManyValues(t *testing.T) {
	s := secrets.New()
	for i := range 5000 {
		s.Add("lasting-token", renewed(i))
	}
	if !s.Has("lasting-token") || !s.Has(renewed(4999)) || s.Has(renewed(0)) {
		t.Error("the newest and those in use should be known, the oldest not")
	}
}

// opaque is a value whose fields only a handler looks at.
type opaque struct {
	Inner *inner
	Plain string
}

type inner struct{ Text string }

type valuer struct{ text string }

func (v valuer) LogValue() slog.Value { return slog.GroupValue(slog.String("inner", v.text)) }

func TestHandler(t *testing.T) {
	for name, newHandler := range map[string]func(io.Writer) slog.Handler{
		"text": func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
		"JSON": func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, secret := range []string{token, quoted} {
				s := secrets.New()
				s.Add(secret)
				var out bytes.Buffer
				logger := slog.New(s.Handler(newHandler(&out))).With("with", secret).WithGroup("group " + secret)
				logger.Warn("message "+secret, //nolint:sloglint // the point
					"text", "x"+secret+"x", "error", fmt.Errorf("wrapped: %w", errors.New(secret)), "list", []string{"a", secret},
					"struct", opaque{Inner: &inner{secret}}, "valuer", valuer{secret}, slog.Group("group", "deep", secret), "number", 42, secret, "key",
					"plain", opaque{Plain: "stays"})
				for form, text := range shown(secret) {
					if strings.Contains(out.String(), strings.Trim(text, `"`)) {
						t.Errorf("the log has it, %s: %s", form, out.String())
					}
				}
				for _, want := range []string{"42", "stays", secrets.Hidden} {
					if !strings.Contains(out.String(), want) {
						t.Errorf("the log lacks %q: %s", want, out.String())
					}
				}
			}
		})
	}
}

// FuzzScrub puts a secret into any text: no form of it comes out.
func FuzzScrub(f *testing.F) {
	f.Add("before", token, "after")
	f.Add("hf_", "hf_abcdefgh", "ijkl")
	f.Add("aa", "aaaaaaaa", "aaa")
	f.Add("https://u:", quoted, "@host?token=")
	f.Fuzz(func(t *testing.T, before, secret, after string) {
		if len(secret) < 8 || secret != strings.Join(strings.Fields(secret), "") || strings.HasPrefix(secret, "-----") || strings.Contains(secrets.Hidden, secret) {
			t.Skip("no secret is like this")
		}
		s := secrets.New()
		s.Add(secret)
		for name, form := range shown(secret) {
			if got := s.Scrub(before + form + after); strings.Contains(got, secret) || s.Has(strings.ReplaceAll(got, secrets.Hidden, "\x00")) {
				t.Errorf("%s: %q shows %q", name, got, secret)
			}
		}
	})
}

// renewed is one token of many, which have no part in common.
func renewed(i int) string {
	sum := sha256.Sum256(fmt.Append(nil, i))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
