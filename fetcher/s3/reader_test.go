package s3_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
)

// readCase is what testdata/read_bucket.py is told of one server.
type readCase struct {
	Endpoint      string `json:"endpoint"`
	Proxy         string `json:"proxy"` // where every name is the server's
	Region        string `json:"region"`
	AccessKey     string `json:"accessKey"`
	SecretKey     string `json:"secretKey"`
	Addressing    string `json:"addressing"`
	Unsigned      bool   `json:"unsigned"`
	RequesterPays bool   `json:"requesterPays"`
	V1            bool   `json:"v1"`
}

// The stand-in is a server to boto3, too, whatever it does otherwise: so what this
// driver is shown to read is what AWS's own client reads.
func TestBoto3ReadsTheSame(t *testing.T) {
	python := os.Getenv("STOKER_TEST_PYTHON")
	if python == "" {
		t.Skip("SKIPPED: STOKER_TEST_PYTHON names no Python with boto3; make test makes a virtual environment and sets it")
	}
	files := map[string][]byte{"config.json": []byte("{}"), "sub/a b+c.json": []byte("[]"), "z.bin": []byte("123")}
	want := map[string]string{}
	for path, content := range files {
		sum := sha256.Sum256(content)
		want[path] = hex.EncodeToString(sum[:])
	}
	names := slices.Sorted(maps.Keys(others))
	cases := make([]readCase, 0, len(names))
	for _, name := range names {
		c := others[name]
		s := startStandIn(t, c.traits, files)
		one := readCase{
			Endpoint: "http://" + standInHost, Proxy: s.url, Region: region, AccessKey: accessKey, SecretKey: secretKey, Addressing: "path",
			Unsigned: c.access.Unsigned, RequesterPays: c.access.RequesterPays,
			V1: slices.Contains(c.traits.unknown, "list-type") || c.traits.ignoresListType,
		}
		if c.traits.onlyVirtual != "" || c.access.Addressing == fetcher.AddressingVirtual {
			one.Addressing = "virtual"
		}
		cases = append(cases, one)
	}
	arg, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "read_bucket.py"), string(arg))
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "PYTHONDONTWRITEBYTECODE=1", "AWS_EC2_METADATA_DISABLED=true"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []struct {
		Objects map[string]string `json:"objects"`
		Error   string            `json:"error"`
	}
	if err := json.Unmarshal(out, &got); err != nil || len(got) != len(cases) {
		t.Fatalf("it printed %q: %v", out, err)
	}
	for i, name := range names {
		// boto3 asks for encoded keys, whatever it is told.
		if beyond := slices.Contains(others[name].traits.unknown, "encoding-type"); beyond {
			if got[i].Error == "" {
				t.Errorf("%s: boto3 reads it", name)
			}
			continue
		}
		if got[i].Error != "" || !maps.Equal(got[i].Objects, want) {
			t.Errorf("%s: boto3 reads %v, %s", name, got[i].Objects, got[i].Error)
		}
	}
}
