package s3_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// An endpoint that is not found and begins with the bucket's name says so.
func TestEndpointSeemsToNameTheBucket(t *testing.T) {
	ourEnvironment(t)
	for endpoint, want := range map[string]bool{
		"http://models-1.objects.invalid:9000": true,
		"http://objects.invalid":               false,
		"http://models-12.objects.invalid":     false,
	} {
		for _, by := range []fetcher.Addressing{fetcher.AddressingPath, fetcher.AddressingVirtual} {
			d := newDriver(t, fetcher.Access{Endpoint: endpoint, Addressing: by}, s3.Options{})
			for _, src := range []fetcher.Source{source("models-1", ""), source("models-1", "llama")} {
				_, err := d.List(t.Context(), src)
				if says := err != nil && strings.Contains(err.Error(), "write it as objects.invalid"); !errors.Is(err, fetcher.ErrTransient) || says != want {
					t.Errorf("%s by %q: error is %v; says that it names the bucket: %v", endpoint, by, err, says)
				}
			}
		}
	}
}
