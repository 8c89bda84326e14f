package main

import (
	"fmt"
	"os"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/file"
	"github.com/stoker-project/stoker/fetcher/hf"
)

// drivers is every kind of source that this binary reads.
func drivers() fetcher.Drivers {
	return fetcher.Drivers{
		fetcher.SchemeHub: func(a fetcher.Access) (fetcher.Driver, error) {
			d, err := hf.FromEnvironment(a, hf.Options{UserAgent: "stoker/" + version})
			if err != nil {
				if a.Endpoint == "" && os.Getenv("HF_ENDPOINT") != "" {
					err = fmt.Errorf("HF_ENDPOINT: %w", err)
				}
				return nil, usage(err)
			}
			return d, nil
		},
		fetcher.SchemeFile: func(fetcher.Access) (fetcher.Driver, error) { return file.New(), nil },
	}
}

// driverFor makes the driver of a source as the environment says, or says why
// there is none.
func driverFor(src fetcher.Source) (fetcher.Driver, error) {
	newDriver, ok := drivers()[src.Scheme]
	if !ok {
		return nil, usage(fmt.Errorf("source %s cannot be read: this stoker has no driver for %s://; use hf://ORG/NAME or file:///DIR", src, src.Scheme))
	}
	return newDriver(fetcher.Access{})
}
