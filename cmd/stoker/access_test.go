package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

func TestAccessFlags(t *testing.T) {
	here, err := filepath.Abs("ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   string
		scheme string
		want   fetcher.Access
		says   []string // empty: no mistake
	}{
		{scheme: "hf", want: fetcher.Access{Addressing: "auto"}},
		{args: "--addressing=virtual --unsigned", scheme: "s3", want: fetcher.Access{Addressing: "virtual", Unsigned: true}},
		{args: "--etag-is-digest=false --requester-pays", scheme: "s3", want: fetcher.Access{Addressing: "auto", OpaqueETags: true, RequesterPays: true}},
		{args: "--unsigned --ca-bundle=ca.pem --insecure", scheme: "gs", want: fetcher.Access{Addressing: "auto", Unsigned: true, CABundle: here, Insecure: true}},
		{args: "--follow-links=/srv --follow-links=/mnt", scheme: "file", want: fetcher.Access{Addressing: "auto", FollowLinks: []string{"/srv", "/mnt"}}},
		{args: "--addressing=dns --follow-links= --unsigned", scheme: "hf", says: []string{
			`--addressing "dns" is not known`, "--follow-links is empty", "--follow-links: only file:// sources", "--unsigned: only s3:// and gs:// sources",
		}},
		{args: "--header-timeout=10m", scheme: "hf", want: fetcher.Access{Addressing: "auto", HeaderTimeout: 10 * time.Minute}},
		{args: "--header-timeout=5s", scheme: "hf", says: []string{"--header-timeout 5s is too short"}},
		{args: "--unsigned --requester-pays", scheme: "s3", says: []string{"exclude each other"}},
		{args: "--addressing=path --etag-is-digest=false", scheme: "gs", says: []string{"--addressing: only s3://", "--etag-is-digest: only s3://"}},
		{args: "--unsigned --requester-pays", scheme: "", says: []string{"exclude each other"}}, // and no word of a source that is wrong itself
	} {
		t.Run(c.scheme+" "+c.args, func(t *testing.T) {
			var a accessFlags
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			a.add(flags)
			if err := flags.Parse(strings.Fields(c.args)); err != nil {
				t.Fatal(err)
			}
			got, err := a.access(c.scheme)
			if len(c.says) == 0 && (err != nil || !reflect.DeepEqual(got, c.want)) {
				t.Errorf("it is %+v, %v; want %+v", got, err, c.want)
			}
			for _, says := range c.says {
				if err == nil || !strings.Contains(err.Error(), says) {
					t.Errorf("error does not say %q: %v", says, err)
				}
			}
		})
	}
}

// The settings reach the driver, of pull and of fit.
func TestUnsignedBucket(t *testing.T) {
	tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(6, 1<<20, 1))
	if err != nil {
		t.Fatal(err)
	}
	var signed atomic.Int32
	b := &bucket{files: tree}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			signed.Add(1)
		}
		b.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": server.URL, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_REGION": "us-east-1",
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	for _, args := range [][]string{{"pull", "s3://models"}, {"fit", "s3://models", "--gpus", "none"}} {
		args = append(args, "--store", t.TempDir())
		if code, _, stderr := call(t, args...); code != exitRefused || !strings.Contains(stderr, "--unsigned") {
			t.Errorf("%q exits with %d: %s", args, code, stderr)
		}
		if code, _, stderr := call(t, append(args, "--unsigned")...); code != exitOK {
			t.Errorf("%q unsigned exits with %d: %s", args, code, stderr)
		}
	}
	if n := signed.Load(); n != 0 {
		t.Errorf("%d requests were signed", n)
	}
}
