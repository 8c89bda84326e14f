package gcs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

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
	api = parsed(api)
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
	case reason == "rateLimitExceeded" || reason == "userRateLimitExceeded", api.Code == http.StatusTooManyRequests:
		e.Kind, e.Hint = fetcher.ErrThrottled, "wait"
	case mentions(api, "requester pays"):
		e.Hint = "accept that your own project pays for what is read with access.requesterPays: true (--requester-pays)"
	case mentions(api, "serviceusage.services.use"):
		e.Hint = "let these credentials use the project that pays (roles/serviceusage.serviceUsageConsumer), or name another in GOOGLE_CLOUD_QUOTA_PROJECT"
	case reason == "resourceIsEncryptedWithCustomerEncryptionKey", mentions(api, "customer-supplied encryption key"):
		e.Hint = "the object is encrypted with a key that only its owner has; store it with Google's key or one of Cloud KMS"
	case api.Code == http.StatusForbidden && c.unsigned, api.Code == http.StatusUnauthorized && c.unsigned:
		e.Hint = "the bucket or this object is not public: give credentials, and leave out access.unsigned (--unsigned)"
	case api.Code == http.StatusUnauthorized && !c.anonymous:
		e.Hint = "the credentials are wrong or were revoked; replace them"
	case api.Code == http.StatusUnauthorized, api.Code == http.StatusForbidden && c.anonymous:
		e.Hint = "give credentials that may list and read the bucket: GOOGLE_APPLICATION_CREDENTIALS, or a service account for this machine or pod"
	case api.Code == http.StatusForbidden:
		e.Hint = "let these credentials list the bucket and read its objects (roles/storage.objectViewer)"
	case httpsource.Passing(api.Code):
		e.Kind, e.Hint = fetcher.ErrTransient, "try again later"
	default:
		e.Hint = "check the source and the endpoint"
	}
	return e
}

// parsed is the error with what its body says: the client leaves that of an object's
// unread.
func parsed(api *googleapi.Error) *googleapi.Error {
	if api.Message != "" {
		return api
	}
	var said *googleapi.Error
	if errors.As(googleapi.CheckResponseWithBody(&http.Response{StatusCode: api.Code, Header: api.Header}, []byte(api.Body)), &said) && said.Code == api.Code {
		return said
	}
	return api
}

// mentions reports whether an answer's text, which need not be JSON, has these words.
func mentions(api *googleapi.Error, words string) bool {
	return strings.Contains(strings.ToLower(api.Message+"\n"+api.Body), words)
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
