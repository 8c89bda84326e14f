package gcs

import (
	"encoding/json"
	"errors"
	"io/fs"
	"strings"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// unreadable is a request that got no answer, or none that the client can read. The
// decoder's own text is left out: it quotes the answer. A size that is no number
// is the server's own, and would be the same the next time.
func (c *client) unreadable(op httpsource.Operation, err error) *fetcher.Error {
	var other *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &other), strings.Contains(err.Error(), "invalid use of ,string"): // of no type
		return op.Fail(fetcher.ErrCorrupt, errors.New(c.host+" lists a value that no object has, such as a size"), "do not trust this endpoint")
	case errors.As(err, &syntax):
		return op.Fail(fetcher.ErrTransient, errors.New(c.host+" did not answer with the service's JSON"), "check the endpoint, and that no proxy answers in its place")
	}
	return op.Broken(c.host, err)
}

// unusable returns why Google's library got no token. Of its texts only those about
// this machine's files are kept: others repeat what the token service answered.
func unusable(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) {
		return file
	}
	return errors.New("the credentials cannot be used, or the answer cannot be read")
}
