package gcs

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// classify says what kind of failure an operation's error is.
func (c *client) classify(ctx context.Context, op httpsource.Operation, err error) error {
	if ended := op.Ended(ctx, nil); ended != nil {
		return ended
	}
	if e := op.Exceeded(err); e != nil {
		return e
	}
	var noToken *credentialsError
	if errors.As(err, &noToken) {
		return classifyToken(op, noToken.err)
	}
	var api *googleapi.Error
	if !errors.As(err, &api) {
		return c.unreadable(op, err)
	}
	reason := ""
	if len(api.Errors) > 0 {
		reason = api.Errors[0].Reason
	}
	e := op.Fail(fetcher.ErrRefused, httpsource.Answered(c.host, api.Code, reason, api.Message, api.Header.Get("X-Guploader-Uploadid")), "")
	e.RetryAfter = httpsource.RetryAfter(api.Header)
	switch {
	case errors.Is(err, storage.ErrBucketNotExist):
		e.Hint = "check the bucket's spelling" + c.orCredentials()
	case errors.Is(err, storage.ErrObjectNotExist):
		e.Err = fmt.Errorf("the object was replaced or removed since it was listed: %w", e.Err)
		e.Hint = "let nothing write to the bucket while it is read, and pull again"
	case api.Code == http.StatusUnauthorized && !c.anonymous:
		e.Hint = "the credentials are wrong or were revoked; replace them"
	case api.Code == http.StatusUnauthorized, api.Code == http.StatusForbidden && c.anonymous:
		e.Hint = "give credentials that may list and read the bucket: GOOGLE_APPLICATION_CREDENTIALS, or a service account for this machine or pod"
	case reason == "rateLimitExceeded" || reason == "userRateLimitExceeded", api.Code == http.StatusTooManyRequests:
		e.Kind, e.Hint = fetcher.ErrThrottled, "wait"
	case api.Code == http.StatusForbidden:
		e.Hint = "let these credentials list the bucket and read its objects (roles/storage.objectViewer)"
	case httpsource.Passing(api.Code):
		e.Kind, e.Hint = fetcher.ErrTransient, "try again later"
	default:
		e.Hint = "check the source and the endpoint"
	}
	return e
}

func (c *client) orCredentials() string {
	if c.anonymous {
		return "; for a bucket that is not public, give credentials in GOOGLE_APPLICATION_CREDENTIALS"
	}
	return ""
}

// classifyToken says what kind of failure it is that no token could be had. The
// body of the answer is not repeated: it may have been sent a part of a token.
func classifyToken(op httpsource.Operation, err error) error {
	var a *auth.Error
	if !errors.As(err, &a) || a.Response == nil {
		var temporary interface{ Timeout() bool }
		if errors.As(err, &temporary) {
			return op.Broken("Google's token service", err)
		}
		return op.Fail(fetcher.ErrRefused, fmt.Errorf("get a token: %w", unusable(err)), "check the Google credentials file")
	}
	host := "the token service"
	if a.Response.Request != nil {
		host = httpsource.Host(a.Response.Request.URL)
	}
	e := op.Fail(fetcher.ErrRefused, fmt.Errorf("get a token: %w", httpsource.Answered(host, a.Response.StatusCode, "", "", "")), "the credentials are wrong, expired or were revoked; replace them")
	e.RetryAfter = httpsource.RetryAfter(a.Response.Header)
	switch {
	case a.Response.StatusCode == http.StatusTooManyRequests:
		e.Kind, e.Hint = fetcher.ErrThrottled, "wait"
	case httpsource.Passing(a.Response.StatusCode):
		e.Kind, e.Hint = fetcher.ErrTransient, "try again later"
	}
	return e
}
