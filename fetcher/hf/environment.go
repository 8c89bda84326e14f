package hf

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// FromEnvironment makes a driver that takes from access, and where that is
// silent from the environment, what the Hub's own client takes from it:
// HF_ENDPOINT; and at each request the token, from the first that has one of
//
//	HF_TOKEN in access.CredentialsDir (a file)
//	HF_TOKEN, HUGGING_FACE_HUB_TOKEN (variables)
//	HF_TOKEN_PATH (a file)
//	$HF_HOME/token, $XDG_CACHE_HOME/huggingface/token, ~/.cache/huggingface/token
//
// of which the last three are read only if HF_HUB_DISABLE_IMPLICIT_TOKEN is
// not set. HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, in seconds, make it wait
// longer for an answer where access asks for nothing else: the client waits by the one
// for a file's metadata and by the other for its bytes, and here one request has both.
// Fewer than 30 s leave 30, more than an hour count as one. Its servers may be vouched for by the certificates of trustFor.
// o.Endpoint and o.Token are overwritten.
func FromEnvironment(access fetcher.Access, o Options) (*Driver, error) {
	o.Endpoint = access.Endpoint
	if o.Endpoint == "" {
		o.Endpoint = os.Getenv("HF_ENDPOINT")
	}
	header, err := headerTimeout()
	if err != nil {
		return nil, err
	}
	o.Bounds.Header = cmp.Or(access.HeaderTimeout, header, o.Bounds.Header)
	o.Token = func() (string, error) { return readToken(access.CredentialsDir) }
	if o.Transport == nil {
		o.Transport = httpsource.NewTransportFor(trustFor(access))
	}
	return New(o)
}

// Bounds of the time that the environment may ask for. Vendors of mirrors recommend a
// day, which is as good as no end.
const (
	leastHeader = 30 * time.Second
	mostHeader  = time.Hour
)

// headerTimeout is how long the environment has a mirror take to answer; 0: it is
// silent.
func headerTimeout() (time.Duration, error) {
	longest := time.Duration(0)
	for _, name := range []string{"HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"} {
		value := strings.TrimSpace(os.Getenv(name))
		if value == "" {
			continue
		}
		seconds, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return 0, fmt.Errorf("%s is %q, which is no number of seconds", name, value)
		}
		longest = max(longest, time.Duration(seconds)*time.Second)
	}
	if longest <= leastHeader {
		return 0, nil
	}
	return min(longest, mostHeader), nil
}

// trustFor returns whose certificates the Hub's own client accepts. Since its 1.0 that
// client asks through httpx, which takes SSL_CERT_FILE or SSL_CERT_DIR for the whole
// truth, as Go does. Before, it asked through requests, which takes REQUESTS_CA_BUNDLE,
// else CURL_CA_BUNDLE. Where both are given, what either accepts is accepted.
func trustFor(access fetcher.Access) httpsource.Trust {
	t := httpsource.TrustFor(access, "")
	switch bundle := cmp.Or(os.Getenv("REQUESTS_CA_BUNDLE"), os.Getenv("CURL_CA_BUNDLE")); {
	case bundle == "":
	case os.Getenv("SSL_CERT_FILE") == "" && os.Getenv("SSL_CERT_DIR") == "":
		t.Instead = bundle
	default:
		t.Beside = append(t.Beside, bundle)
	}
	return t
}

func readToken(credentialsDir string) (string, error) {
	if credentialsDir != "" {
		if _, err := os.Stat(credentialsDir); err != nil {
			return "", fmt.Errorf("read credentials: %w", err)
		}
		if token, err := tokenFile(filepath.Join(credentialsDir, "HF_TOKEN")); token != "" || err != nil {
			return token, err
		}
	}
	if implicitDisabled(os.Getenv("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
		return "", nil
	}
	for _, name := range []string{"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} {
		if token, err := cleanToken(os.Getenv(name), name); token != "" || err != nil {
			return token, err
		}
	}
	path, err := tokenPath()
	if path == "" || err != nil {
		return "", err
	}
	return tokenFile(path)
}

// implicitDisabled reads a boolean as huggingface_hub does.
func implicitDisabled(value string) bool {
	switch strings.ToUpper(value) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}

// tokenPath is where the Hub's own client keeps the token of a login, or ""
// where there is no home.
func tokenPath() (string, error) {
	if path := os.Getenv("HF_TOKEN_PATH"); path != "" {
		return expandHome(path)
	}
	if home := os.Getenv("HF_HOME"); home != "" {
		return expandHome(filepath.Join(home, "token"))
	}
	if cache := os.Getenv("XDG_CACHE_HOME"); cache != "" {
		return expandHome(filepath.Join(cache, "huggingface", "token"))
	}
	home, err := os.UserHomeDir()
	if err != nil { // a container without HOME has no login either
		return "", nil //nolint:nilerr // see above
	}
	return filepath.Join(home, ".cache", "huggingface", "token"), nil
}

func expandHome(path string) (string, error) {
	rest, isHome := strings.CutPrefix(path, "~/")
	if !isHome {
		return path, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("expand %s: %w", path, err)
	}
	return filepath.Join(home, rest), nil
}

// maxTokenFile is more than any token has, in bytes.
const maxTokenFile = 64 << 10

// tokenFile reads a token; a file that is not there has none.
func tokenFile(path string) (string, error) {
	text, err := smallfile.Read(path, maxTokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return cleanToken(string(text), path)
}

// cleanToken trims a token and refuses what cannot be one, without showing it.
func cleanToken(text, where string) (string, error) {
	token := strings.TrimSpace(text)
	for _, r := range token {
		if r <= ' ' || r > '~' {
			return "", fmt.Errorf("the token in %s has a space, a line break or another character that no token has", where)
		}
	}
	return token, nil
}
