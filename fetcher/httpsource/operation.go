package httpsource

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/stoker-project/stoker/fetcher"
)

// Operation is what errors say was being done, and to what.
type Operation struct {
	// Verb as in "list"; Origin a source, or a file of one.
	Verb, Origin string
}

// Fail makes an error of one kind. hint may be empty for what passes.
func (op Operation) Fail(kind, err error, hint string) *fetcher.Error {
	return &fetcher.Error{Kind: kind, Op: op.Verb, Origin: op.Origin, Err: err, Hint: hint}
}

// Ended returns ctx's error if ctx has ended, whatever else failed because of
// that, and err if not.
func (op Operation) Ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", op.Verb, op.Origin, ctx.Err())
	}
	return err
}

// Broken is a request that got no answer, or a body that broke off. Of err only the
// cause is kept, as Reword words it.
func (op Operation) Broken(host string, err error) *fetcher.Error {
	return op.Unanswered("the connection to "+host+" broke", host, err)
}

// Unanswered is Broken with a clause that says what went wrong. A certificate that is
// not accepted is refused, and so is TLS that is not, and what a proxy forbids: the next
// try would meet the same.
func (op Operation) Unanswered(clause, host string, err error) *fetcher.Error {
	if e := op.Exceeded(err); e != nil {
		return e
	}
	cause := Reword(err)
	if errors.Is(cause, errBundle) {
		return op.Fail(fetcher.ErrMisconfigured, cause, "give a file of PEM certificates, or a directory of such files, that this process can read")
	}
	kind, hint := cmp.Or(cause.kind, fetcher.ErrTransient), cmp.Or(cause.hint, "check that this machine reaches "+host)
	if errors.Is(cause, ErrCertificate) || errors.Is(cause, ErrTLS) {
		kind = fetcher.ErrRefused
	}
	return op.Fail(kind, fmt.Errorf("%s: %w", clause, cause), hint)
}
