package hf

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// unknown words an entry that is neither a file nor a folder. To leave it out would
// make another model of the repository: a symlink, or a submodule, may stand for a
// file that vLLM reads.
func (e treeEntry) unknown() error {
	kind := "of no type"
	if id := httpsource.ID(e.Type); id != "" {
		kind = "of the type " + id
	}
	return fmt.Errorf("its entry %q is %s, neither a file nor a folder", httpsource.Plain(e.Path), kind)
}

// unreadable is an answer that is no JSON of the Hub's. The decoder's own text is
// left out, which may quote the answer.
func (op operation) unreadable(host string, err error) *fetcher.Error {
	var other *json.UnmarshalTypeError
	if errors.As(err, &other) && strings.HasPrefix(other.Value, "number") && strings.HasSuffix(other.Field, "size") {
		return op.fail(fetcher.ErrCorrupt, fmt.Errorf("%s lists a file with a size that no file has", host), "do not trust this source")
	}
	said := fmt.Errorf("%s did not answer with the Hub's JSON", host)
	if errors.Is(err, errNoList) {
		said = noList{said}
	}
	return op.fail(fetcher.ErrTransient, said, "check that the endpoint is a Hub, and that no proxy answers in its place")
}
