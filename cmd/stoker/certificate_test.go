package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// A mirror of a private authority, as somebody meets it who has not heard of it: one
// try, what to set, and then the model. SSL_CERT_FILE is read once a process.
func TestPullOfPrivateAuthority(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{Mirror: fetchertest.Mirror{Direct: true}})
	if _, err := hub.Push(t.Context(), "org/tiny", "main", fetchertest.Tree{"config.json": fetchertest.Bytes([]byte("{}"))}); err != nil {
		t.Fatal(err)
	}
	authority := fetchertest.NewAuthority(t, "Example Corp CA")
	certificate := authority.Server(t, time.Now().Add(time.Hour), "127.0.0.1")
	endpoint := "https://" + fetchertest.StartTLS(t, certificate, strings.TrimPrefix(hub.URL(), "http://"))
	bundle, missing := authority.Bundle(t), filepath.Join(t.TempDir(), "none.pem")
	for name, c := range map[string]struct {
		env, args []string
		code      int
		says      string
	}{
		"nothing":      {nil, nil, exitRefused, "signed by an unknown authority; name a file with that authority's certificate in SSL_CERT_FILE"},
		"variable":     {[]string{"SSL_CERT_FILE=" + bundle}, nil, exitOK, ""},
		"folder":       {[]string{"SSL_CERT_DIR=" + filepath.Dir(bundle)}, nil, exitOK, ""},
		"every source": {[]string{httpsource.CABundleVariable + "=" + bundle}, nil, exitOK, ""},
		"flag":         {nil, []string{"--ca-bundle", bundle}, exitOK, ""},
		"no file":      {nil, []string{"--ca-bundle", missing}, exitUsage, missing + ": no such file"},
		"insecure":     {nil, []string{"--insecure"}, exitOK, ""},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			args := append([]string{"pull", "hf://org/tiny", "--include", "*", "--store", filepath.Join(t.TempDir(), "store")}, c.args...)
			cmd := exec.CommandContext(t.Context(), "stoker", args...)
			cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "HF_ENDPOINT=" + endpoint}, c.env...)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(string(out), c.says) || strings.Contains(string(out), "trying again") {
				t.Errorf("exits with %d, want %d and %q, at once:\n%s", code, c.code, c.says, out)
			}
		})
	}
}
