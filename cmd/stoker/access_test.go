package main

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/stoker-project/stoker/fetcher"
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
