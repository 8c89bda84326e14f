package s3

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/aws/smithy-go"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// unreadable is a good answer that the SDK cannot read. Its text is left out: it
// quotes the answer. A number that is none is the server's own, and would be the
// same the next time.
func unreadable(op httpsource.Operation, a answer, err error) *fetcher.Error {
	var number *strconv.NumError
	if errors.As(err, &number) {
		return op.Fail(fetcher.ErrCorrupt, fmt.Errorf("%s answered %d, with a size that no object has", a.host, a.status), "do not trust this endpoint")
	}
	return op.Fail(fetcher.ErrTransient, fmt.Errorf("%s answered %d, and not as S3 does", a.host, a.status), "check that the endpoint is an S3 server, and that no proxy changes its answers")
}

// local returns why no credentials could be had of this machine. Where somebody
// else was asked, it is only what kind of failure that was.
func local(err error) error {
	var send *url.Error
	var read *smithy.DeserializationError
	var syntax *json.SyntaxError
	var other *json.UnmarshalTypeError
	if errors.As(err, &send) || errors.As(err, &read) {
		return httpsource.Reword(err)
	}
	if errors.As(err, &syntax) || errors.As(err, &other) {
		return errors.New("what should be JSON is not")
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner // what is around it repeats the request
	}
}
