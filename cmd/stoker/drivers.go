package main

import (
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
				return nil, usage(err)
			}
			return d, nil
		},
		fetcher.SchemeFile: func(fetcher.Access) (fetcher.Driver, error) { return file.New(), nil },
	}
}
