package fetchertest_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// npmPackage is the client that the stand-in was held against.
const npmPackage = "@huggingface/hub@2.17.5"

// npm's client asks in other ways than PyPI's: for single paths by POST, and
// for the first byte of a file to learn its size.
func TestRealNPMClientDownloads(t *testing.T) {
	folder := os.Getenv("STOKER_TEST_NPM")
	if folder == "" {
		t.Skip("STOKER_TEST_NPM is not set: npm's client is not run; name a folder after `npm install --prefix FOLDER " + npmPackage + "`")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal(err)
	}
	const token = "hf_tokenTOKENtoken"
	hub, tree, commit := startHub(t, fetchertest.HubOptions{PageSize: 5})
	for _, accessToken := range []string{"", token} {
		if accessToken != "" {
			hub.AddRepo(repoID, fetchertest.RepoOptions{Private: true, Tokens: []string{token}})
		}
		cmd := exec.CommandContext(t.Context(), node, filepath.Join("testdata", "download.mjs"), hub.URL(), repoID, "main", t.TempDir(), accessToken)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "STOKER_TEST_NPM=" + folder}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
		var got struct {
			Path, Config, Error, Text string
			Files                     []string
		}
		decode(t, lines[len(lines)-1], &got)
		if got.Error != "" || filepath.Base(got.Path) != commit || len(got.Files) != len(tree) || got.Config != string(content(t, tree["config.json"])) {
			t.Fatalf("the client got %+v", got)
		}
		checkTree(t, got.Path, tree)
	}
	if leaks := hub.Leaks(); len(leaks) > 0 {
		t.Errorf("the client sent a token to the CDN: %+v", leaks)
	}
}
