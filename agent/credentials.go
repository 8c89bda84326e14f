package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/stoker-project/stoker/fetcher/secrets"
	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// DefaultCredentials is where Secrets are mounted for a configuration file, if nothing
// else is said: in the folder credentials beside it.
func DefaultCredentials(configPath string) string {
	return filepath.Join(filepath.Dir(configPath), "credentials")
}

// credentialDigests tells the mounted Secrets apart from what they were: the
// digest of each folder's files, by the folder's name. There is none where
// nothing is mounted. What cannot be read is as if it were not there: a pull
// that needs it says so. What they hold is hidden from now on.
func credentialDigests(dir string, hidden *secrets.Set) map[string][sha256.Size]byte {
	out := map[string][sha256.Size]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return out
	}
	for _, e := range entries {
		h := sha256.New()
		for _, key := range []string{"HF_TOKEN", "config", "credentials", "key.json"} {
			data, err := smallfile.Read(filepath.Join(dir, e.Name(), key), smallfile.MaxCredential)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			hide(hidden, key, data)
			fmt.Fprintf(h, "%s %d\n", key, len(data))
			h.Write(data)
		}
		out[e.Name()] = [sha256.Size]byte(h.Sum(nil))
	}
	return out
}

// hide adds the secrets of one file to the process's.
func hide(hidden *secrets.Set, key string, data []byte) {
	switch key {
	case "HF_TOKEN":
		hidden.Add(string(data))
	case "key.json":
		hidden.AddJSON(data)
	default:
		hidden.AddINI(data)
	}
}

// observeCredentials tries models again at once whose mounted Secret changed.
func (a *Agent) observeCredentials(now time.Time, seen map[string][sha256.Size]byte) {
	l := &a.loop
	if l.credentials != nil {
		a.tryAgain(now, func(m Model) bool {
			return m.Credentials != "" && l.credentials[m.Credentials] != seen[m.Credentials]
		})
	}
	l.credentials = seen
}

// tryAgain ends the wait after failures of the models that which names: what
// made them fail may have been mended. Only what a source itself asked for is
// still waited for.
func (a *Agent) tryAgain(now time.Time, which func(Model) bool) {
	for _, m := range a.loop.cfg.Models {
		r, ok := a.loop.records[m.Name]
		if !ok || r.Failure == nil || !which(m) {
			continue
		}
		r.Failures, r.Next = 0, now
		if r.Failure.Until.After(now) {
			r.Next = r.Failure.Until
		}
		a.loop.records[m.Name] = r
		a.logger.Info("try again at once", "model", m.Name)
	}
}
