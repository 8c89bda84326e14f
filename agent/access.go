package agent

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

// checkEndpoint refuses what is no host, and what carries a secret: the
// endpoint stands in errors and logs.
func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		return errors.New("write a URL with http or https and a host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("write it without user, password, query and fragment; a secret belongs in credentials")
	}
	return nil
}

// leastHeaderTimeout is the bound that holds where an entry names none.
const leastHeaderTimeout = 30 * time.Second

// parseAccess reads how the source is spoken to.
func parseAccess(parent *fields, scheme string, a *fetcher.Access) {
	v, _ := parent.take("access")
	f := asFields(parent.name("access"), v, parent.errs)
	a.Addressing = fetcher.Addressing(f.str("addressing"))
	a.Unsigned = f.boolean("unsigned", false)
	a.RequesterPays = f.boolean("requesterPays", false)
	a.HeaderTimeout = f.duration("headerTimeout", 0)
	a.CABundle = f.str("caBundle")
	a.Insecure = f.boolean("insecure", false)
	a.OpaqueETags = !f.boolean("etagIsDigest", true)
	a.FollowLinks = f.strs("followLinks")
	if a.Addressing.Check() != nil {
		f.complain("addressing", a.Addressing, "write auto, path or virtual")
	}
	if a.Unsigned && a.RequesterPays {
		f.complain("unsigned", a.Unsigned, "leave out this or requesterPays: without credentials nobody pays")
	}
	if a.HeaderTimeout > 0 && a.HeaderTimeout < leastHeaderTimeout {
		f.complain("headerTimeout", a.HeaderTimeout.String(), "write at least 30s, which holds where it is left out")
	}
	if a.CABundle != "" && !isCleanPath(a.CABundle) {
		f.complain("caBundle", a.CABundle, "write the absolute path of a file in the agent's pod, without . and ..")
	}
	for i, dir := range a.FollowLinks {
		if !isCleanPath(dir) {
			f.complain(fmt.Sprintf("followLinks[%d]", i), dir, "write the absolute path of a directory, without . and .. and a slash at its end")
		}
	}
	if scheme != "" { // else the source itself is complained about
		for _, s := range a.Misplaced(scheme) {
			f.complain(s.Name, f.m[s.Name], s.Misplaced().Error())
		}
	}
	f.done()
}

// isCleanPath reports whether a path is absolute and written in one way.
func isCleanPath(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path }
