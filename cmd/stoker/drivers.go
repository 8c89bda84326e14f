package main

import (
	"fmt"
	"os"
	"sync"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/file"
	"github.com/stoker-project/stoker/fetcher/gcs"
	"github.com/stoker-project/stoker/fetcher/hf"
	"github.com/stoker-project/stoker/fetcher/s3"
	"github.com/stoker-project/stoker/fetcher/secrets"
)

// drivers is every kind of source that this binary reads. Credentials that they read
// are added to hidden.
func drivers(hidden *secrets.Set) fetcher.Drivers {
	userAgent := "stoker/" + version
	return fetcher.Drivers{
		fetcher.SchemeHub: kept(func(a fetcher.Access) (fetcher.Driver, error) {
			d, err := hf.FromEnvironment(a, hf.Options{UserAgent: userAgent, Secrets: hidden})
			if err != nil && a.Endpoint == "" && os.Getenv("HF_ENDPOINT") != "" {
				err = fmt.Errorf("HF_ENDPOINT: %w", err)
			}
			return d, err
		}),
		fetcher.SchemeS3: kept(func(a fetcher.Access) (fetcher.Driver, error) {
			return s3.New(a, s3.Options{UserAgent: userAgent, Secrets: hidden})
		}),
		fetcher.SchemeGCS: kept(func(a fetcher.Access) (fetcher.Driver, error) {
			return gcs.New(a, gcs.Options{UserAgent: userAgent, Secrets: hidden})
		}),
		fetcher.SchemeFile: func(a fetcher.Access) (fetcher.Driver, error) { return file.New(a.FollowLinks...), nil },
	}
}

// kept makes one driver for each way of access, so that what it knows after one
// pull (a token that is still good, a quota that is used up) serves the next.
func kept(newDriver func(fetcher.Access) (fetcher.Driver, error)) func(fetcher.Access) (fetcher.Driver, error) {
	var mu sync.Mutex
	made := map[string]fetcher.Driver{}
	return func(a fetcher.Access) (fetcher.Driver, error) {
		mu.Lock()
		defer mu.Unlock()
		key := fmt.Sprintf("%#v", a)
		if d, ok := made[key]; ok {
			return d, nil
		}
		d, err := newDriver(a)
		if err != nil {
			return nil, usage(err)
		}
		made[key] = d
		return d, nil
	}
}

// driverFor makes the driver of a source.
func driverFor(src fetcher.Source, access fetcher.Access, hidden *secrets.Set) (fetcher.Driver, error) {
	newDriver, ok := drivers(hidden)[src.Scheme]
	if !ok {
		return nil, usage(fmt.Errorf("source %s cannot be read: this stoker has no driver for %s://", src, src.Scheme))
	}
	return newDriver(access)
}
