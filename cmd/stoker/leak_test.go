package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/secrets"
	"github.com/stoker-project/stoker/fetcher/store"
)

// leaked is a credential that has no form by which it could be known.
const leaked = "Zq7.Credential_of-nobody-01xyz"

// leakedForms are the ways in which an answer repeats it.
func leakedForms() map[string]string {
	return map[string]string{
		"raw": leaked, "upper-case": strings.ToUpper(leaked), "base64": base64.StdEncoding.EncodeToString([]byte(leaked)),
		"basic": base64.StdEncoding.EncodeToString([]byte("user:" + leaked)), "escaped": url.QueryEscape(leaked),
	}
}

// findLeak returns what of the credential is in a text, if it is a good part.
func findLeak(text string) string {
	const part = 12
	text = strings.ToLower(text)
	for _, form := range leakedForms() {
		for i := range len(form) - part + 1 {
			if piece := strings.ToLower(form[i : i+part]); strings.Contains(text, piece) {
				return piece
			}
		}
	}
	return ""
}

// leakSource is a source over a server that answers as the test says.
type leakSource struct {
	url string
	// access is how requests reach a server at HOST:PORT.
	environment func(t *testing.T, host string)
	// answers are what a request that contains the key is answered; the first that
	// fits. Every pull of them succeeds.
	answers []leakAnswer
}

type leakAnswer struct{ asked, text string }

func leakSources() map[string]leakSource {
	const config, etag = "{}", `"99914b932bd37a50b983c5e7c90ae93b"`
	length := func(body string) string { return fmt.Sprint("Content-Length: ", len(body)) }
	commit := strings.Repeat("a", 40)
	info := `{"sha":"` + commit + `"}`
	tree := `[{"type":"directory","path":"d"},{"type":"file","path":"config.json","size":2,"oid":"9e26dfeeb6e641a33dae4961196235bdb965b21b"}]`
	bucket := `<ListBucketResult><Name>bucket</Name><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated><Contents><Key>config.json</Key><ETag>` + etag + `</ETag><Size>2</Size></Contents></ListBucketResult>`
	objects := `{"kind":"storage#objects","items":[{"kind":"storage#object","name":"config.json","bucket":"bucket","generation":"1","size":"2","crc32c":"KXvQqg=="}]}`
	return map[string]leakSource{
		"hub": {url: "hf://org/tiny", environment: func(t *testing.T, host string) {
			t.Helper()
			t.Setenv("HF_ENDPOINT", "http://"+host)
			t.Setenv("HF_TOKEN", leaked)
		}, answers: []leakAnswer{
			{"/revision/", fetchertest.RawAnswer("200 OK", info, length(info), "Content-Type: application/json", "X-Request-Id: Root=1-abc", `RateLimit: "api";r=9;t=5`)},
			{"/tree/", fetchertest.RawAnswer("200 OK", tree, length(tree), "X-Request-Id: Root=1-abc", `Link: <x>; rel="first"`)},
			{"/resolve/", fetchertest.RawAnswer("206 Partial Content", config, length(config), "Content-Range: bytes 0-1/2", "ETag: \"9e26dfeeb6e641a33dae4961196235bdb965b21b\"", "X-Repo-Commit: "+commit)},
		}},
		"s3": {url: "s3://bucket", environment: func(t *testing.T, host string) {
			t.Helper()
			t.Setenv("AWS_ENDPOINT_URL", "http://"+host)
			t.Setenv("AWS_ACCESS_KEY_ID", "KEYOFNOBODY")
			t.Setenv("AWS_SECRET_ACCESS_KEY", leaked)
			t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
		}, answers: []leakAnswer{
			{"list-type=2", fetchertest.RawAnswer("200 OK", bucket, length(bucket), "x-amz-request-id: ABC123", "Content-Type: application/xml")},
			{"HEAD ", fetchertest.RawAnswer("200 OK", "", length(config), "ETag: "+etag, "x-amz-request-id: ABC123", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT")},
			{"GET ", fetchertest.RawAnswer("206 Partial Content", config, length(config), "ETag: "+etag, "Content-Range: bytes 0-1/2", "x-amz-request-id: ABC123")},
		}},
		"gcs": {url: "gs://bucket", environment: func(t *testing.T, host string) {
			t.Helper()
			t.Setenv("STORAGE_EMULATOR_HOST", host)
		}, answers: []leakAnswer{
			{"alt=media", fetchertest.RawAnswer("206 Partial Content", config, length(config), "Content-Range: bytes 0-1/2", "X-Goog-Generation: 1", "X-Goog-Hash: crc32c=KXvQqg==")},
			{"/o?", fetchertest.RawAnswer("200 OK", objects, length(objects), "Content-Type: application/json", "X-Guploader-Uploadid: ABC-123")},
		}},
	}
}

// refusals are errors in each source's own form; they repeat what they like.
func refusals() []string {
	xml := "<Error><Code>AccessDenied</Code><Message>You may not</Message><RequestId>ABC</RequestId><HostId>host</HostId></Error>"
	inJSON := `{"error":{"code":403,"message":"You may not","errors":[{"message":"You may not","domain":"global","reason":"forbidden"}]}}`
	return []string{
		fetchertest.RawAnswer("403 Forbidden", xml, "X-Error-Code: GatedRepo", "X-Error-Message: You may not", "X-Request-Id: Root=1-abc", "x-amz-request-id: ABC", "Content-Length: "+fmt.Sprint(len(xml))),
		fetchertest.RawAnswer("403 Forbidden", inJSON, "X-Guploader-Uploadid: ABC-123", "Content-Length: "+fmt.Sprint(len(inJSON))),
		fetchertest.RawAnswer("403 Forbidden", "You may not do this, "+strings.Repeat("whatever ", 30), "Content-Type: text/plain"),
		fetchertest.RawAnswer("503 Slow Down", "", "Retry-After: 5", "X-Error-Message: "+strings.Repeat("word ", 45)),
		fetchertest.RawAnswer("301 Moved Permanently", "", "X-Amz-Bucket-Region: eu-west-1", "Location: http://127.0.0.1:1/elsewhere"),
		fetchertest.RawAnswer("407 Proxy Authentication Required", "", `Proxy-Authenticate: Basic realm="proxy"`),
	}
}

// leakPull pulls once, as a command does, and returns all that it writes for people.
func leakPull(t *testing.T, source string, hidden *secrets.Set, dir string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := &cli{stderr: &out, verbose: true, secrets: hidden}
	src, err := fetcher.ParseSource(source)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	logger := c.logger(slog.LevelDebug)
	_, err = fetcher.New(fetcher.Options{Store: s, Drivers: drivers(hidden), Logger: logger, Attempts: 1, Secrets: hidden}).
		Pull(t.Context(), fetcher.Request{Name: "m", Source: src, Include: []string{"*"}})
	if err != nil {
		c.complain(err, 1, "stoker pull")
		logger.Warn("trying again", "error", err)
		c.logFormat = "json"
		c.complain(err, 1, "stoker pull")
	}
	return out.String(), err
}

// memoryDir is a folder that is gone when the test ends, in memory where it can be:
// thousands of stores are synced.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "stoker-leaks-") //nolint:usetesting // t.TempDir is on a disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// storeText is everything in a store that is not a file's content: names, links,
// manifests, journals.
func storeText(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintln(&text, path)
		content := strings.Contains(path, "/blobs/") || strings.Contains(path, "/partial/") && !strings.HasSuffix(path, ".json")
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			fmt.Fprintln(&text, target)
			return err
		case d.Type().IsRegular() && !content:
			b, err := os.ReadFile(path)
			text.Write(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// A credential at every position of every answer of every source appears nowhere.
func TestLeaks(t *testing.T) {
	clearEnvironment(t)
	fetchertest.NoLookups(t)
	for name, source := range leakSources() {
		t.Run(name, func(t *testing.T) {
			var now atomic.Pointer[[]leakAnswer]
			host := fetchertest.StartRaw(t, func(request string) string {
				for _, a := range *now.Load() {
					if strings.Contains(request, a.asked) {
						return a.text
					}
				}
				return ""
			})
			source.environment(t, host)
			try := func(answers []leakAnswer) error {
				now.Store(&answers)
				hidden := secrets.New()
				hidden.AddEnvironment()
				hidden.Add(leaked) // where nothing else is asked for: what another driver has read
				hidden.AddUserinfo(url.UserPassword("user", leaked))
				dir := memoryDir(t)
				text, err := leakPull(t, source.url, hidden, dir)
				if err != nil && findLeak(err.Error()) != "" && findLeak(text) == "" && !strings.Contains(text, secrets.Hidden) {
					t.Errorf("it was lost, not hidden: %s", text)
				}
				if piece := findLeak(text); piece != "" {
					t.Errorf("%q was written: %s", piece, text)
				}
				if piece := findLeak(storeText(t, dir)); piece != "" {
					t.Errorf("%q is in the store", piece)
				}
				return err
			}
			if err := try(source.answers); err != nil {
				t.Fatalf("without a credential in it: %v", err)
			}
			tried := 0
			insert := func(answers []leakAnswer, i int) {
				for at := range len(answers[i].text) + 1 {
					for form, text := range leakedForms() {
						// Every position, and now and then each of the forms.
						if form != "raw" && (at+len(form))%11 != 0 {
							continue
						}
						changed := append([]leakAnswer{}, answers...)
						changed[i].text = answers[i].text[:at] + text + answers[i].text[at:]
						tried++
						if _ = try(changed); t.Failed() {
							t.Fatalf("with %s at %d of the answer to %q", form, at, answers[i].asked)
						}
					}
				}
			}
			for i := range source.answers {
				insert(source.answers, i)
			}
			for _, refusal := range refusals() {
				insert([]leakAnswer{{"", refusal}}, 0)
			}
			for _, text := range leakedForms() {
				for broken, answer := range fetchertest.BrokenAnswers(text) {
					tried++
					if err := try([]leakAnswer{{"", answer}}); err == nil {
						t.Errorf("%s: it was pulled", broken)
					}
				}
			}
			t.Logf("%d answers", tried)
		})
	}
}

// clearEnvironment hides this machine's own configuration.
func clearEnvironment(t *testing.T) {
	t.Helper()
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		for _, prefix := range []string{"AWS_", "HF_", "HUGGING", "GOOGLE_", "STORAGE_"} {
			if strings.HasPrefix(name, prefix) {
				t.Setenv(name, "")
				if err := os.Unsetenv(name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Setenv("HOME", t.TempDir())
}

// Credentials are hidden from when they are read on, wherever they come from.
func TestCredentialsAreKnown(t *testing.T) {
	clearEnvironment(t)
	server := fetchertest.StartRaw(t, func(string) string { return fetchertest.RawAnswer("500 No", "") })
	files := map[string]map[string]string{
		"hf://org/tiny": {"HF_TOKEN": "token-of-an-entry-1\n"},
		"s3://bucket":   {"config": "[default]\nregion = eu-test-1\n", "credentials": "[default]\naws_access_key_id = KEYOFANENTRY01\naws_secret_access_key = secret/of+an/entry\naws_session_token = session-of-an-entry\n"},
	}
	want := map[string][]string{"hf://org/tiny": {"token-of-an-entry-1", "token-after-rotation"}, "s3://bucket": {"KEYOFANENTRY01", "secret/of+an/entry", "session-of-an-entry"}}
	for source, secretFiles := range files {
		hidden, dir := secrets.New(), t.TempDir()
		for name, text := range secretFiles {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		src, err := fetcher.ParseSource(source)
		if err != nil {
			t.Fatal(err)
		}
		d, err := drivers(hidden)[src.Scheme](fetcher.Access{Endpoint: "http://" + server, CredentialsDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.List(t.Context(), src)
		if err == nil {
			t.Fatal("it was listed")
		}
		if _, rotates := secretFiles["HF_TOKEN"]; rotates {
			if err := os.WriteFile(filepath.Join(dir, "HF_TOKEN"), []byte("token-after-rotation"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = d.List(t.Context(), src)
			if err == nil {
				t.Fatal("it was listed")
			}
		}
		for _, secret := range want[source] {
			if !hidden.Has("a text with " + secret) {
				t.Errorf("%s of %s is not known", secret, source)
			}
		}
	}
}

// The whole program: what it prints of a source that repeats its token.
func TestPullRepeatsNoToken(t *testing.T) {
	clearEnvironment(t)
	t.Setenv("HF_TOKEN", leaked)
	asked := atomic.Int32{}
	host := fetchertest.StartRaw(t, func(string) string {
		if asked.Add(1) == 1 {
			return "HTTP/1.1 " + leaked + "\r\n\r\n"
		}
		return fetchertest.RawAnswer(fmt.Sprint(http.StatusForbidden, " no"), "", "X-Error-Message: "+leaked+" may not", "X-Request-Id: "+leaked)
	})
	t.Setenv("HF_ENDPOINT", "http://"+host)
	for _, format := range []string{"text", "json"} {
		asked.Store(0)
		code, stdout, stderr := call(t, "pull", "hf://org/tiny", "--store", t.TempDir(), "--log-format", format, "-v")
		if code != exitRefused || stdout != "" || findLeak(stderr) != "" {
			t.Errorf("exit code %d, output %q: %s", code, stdout, stderr)
		}
		for _, says := range []string{"trying again", "status line", "next="} {
			if format == "json" {
				says = strings.Trim(says, "=")
			}
			if !strings.Contains(stderr, says) {
				t.Errorf("it does not say %q: %s", says, stderr)
			}
		}
		if lines := strings.Split(strings.TrimSpace(stderr), "\n"); format == "json" && !json.Valid([]byte(lines[0])) {
			t.Errorf("no JSON: %s", lines[0])
		}
	}
}
