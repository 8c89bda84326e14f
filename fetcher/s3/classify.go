package s3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// answer is what a server said instead of what it was asked for.
type answer struct {
	host      string
	status    int
	header    http.Header
	code      string // S3's own, or the status text of a HEAD
	message   string
	requestID string
}

// asAnswer finds the answer in an SDK's error.
func asAnswer(err error) (answer, bool) {
	var re *awshttp.ResponseError
	if !errors.As(err, &re) || re.ResponseError == nil || re.Response == nil || re.Response.Response == nil || re.Response.StatusCode == 0 {
		return answer{}, false // a status of 0 is the SDK's for none at all
	}
	a := answer{host: hostOf(re.Response), status: re.Response.StatusCode, header: re.Response.Header, requestID: re.RequestID}
	var api smithy.APIError
	if errors.As(err, &api) {
		a.code, a.message = api.ErrorCode(), api.ErrorMessage()
	}
	if text := http.StatusText(a.status); a.code == "UnknownError" || a.message == text {
		a.code, a.message = "", text // a HEAD has no body that would say more
	}
	return a, true
}

// asked is the host of a request that got no answer.
func asked(err error) string {
	var failed *url.Error
	if errors.As(err, &failed) {
		if u, err := url.Parse(failed.URL); err == nil && u.Host != "" {
			return httpsource.Host(u)
		}
	}
	return "the server"
}

// classify says what kind of failure an operation's error is. The SDK's own
// text is not repeated: it has the whole request in it.
func (c *client) classify(ctx context.Context, op httpsource.Operation, err error) error {
	if ended := op.Ended(ctx, nil); ended != nil {
		return ended
	}
	if e := op.Exceeded(err); e != nil {
		return e
	}
	a, ok := asAnswer(err)
	switch {
	case !ok:
		e := op.Broken(asked(err), err)
		if c.endpoint != nil && c.access.Addressing == fetcher.AddressingVirtual {
			e.Hint += fmt.Sprintf("; access.addressing: path (--addressing path) asks %s alone", httpsource.Host(c.endpoint))
		}
		e.Hint += c.twiceHint(op, err)
		return e
	case a.status < http.StatusMultipleChoices:
		return unreadable(op, a, err)
	}
	e := op.Fail(fetcher.ErrRefused, httpsource.Answered(a.host, a.status, a.code, a.message, a.requestID), "")
	e.RetryAfter = httpsource.RetryAfter(a.header)
	e.Hint, e.Kind = c.judge(a)
	if errors.Is(e.Kind, errChanged) {
		return changed(op, e.Err)
	}
	return e
}

// errChanged stands for a refusal because the object is another by now.
var errChanged = errors.New("changed")

// judgeCode is what to do about a code of S3's own, and its kind, which is nil where
// the code says nothing. Codes decide before statuses: S3 has many for one status.
func judgeCode(code string) (hint string, kind error) {
	switch code {
	case "NoSuchBucket", "InvalidBucketName":
		return "check the bucket's spelling, and that it is at this endpoint, which is written without the bucket", fetcher.ErrRefused
	case "NoSuchKey", "NoSuchVersion":
		return "the object was removed since it was listed; pull again", fetcher.ErrRefused
	case "PreconditionFailed", "InvalidRange":
		return "", errChanged
	case "InvalidObjectState":
		return "the object is archived; restore it, then pull again", fetcher.ErrRefused
	case "InvalidAccessKeyId", "InvalidSecurity":
		return "the access key or its secret is wrong or was revoked; replace the credentials", fetcher.ErrRefused
	case "SignatureDoesNotMatch":
		return "the access key's secret is wrong; replace the credentials, or, if they are right, look for what changes requests on the way: the host, the path or x-amz headers", fetcher.ErrRefused
	case "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "ExpiredTokenException":
		return "the session token has expired or is wrong; log in again or renew the credentials", fetcher.ErrRefused
	case "RequestTimeTooSkewed":
		return "set this machine's clock", fetcher.ErrRefused
	case "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "ServiceUnavailable":
		return "wait", fetcher.ErrThrottled
	case "RequestTimeout", "InternalError", "TemporaryRedirect":
		return "try again later", fetcher.ErrTransient
	}
	if wantsVirtual(code) {
		return "the server wants the bucket before its name: write access.addressing: virtual (--addressing virtual)", fetcher.ErrRefused
	}
	return "", nil
}

// ofRegion reports whether a code is of a bucket in another region.
func ofRegion(code string) bool {
	return code == "PermanentRedirect" || code == "AuthorizationHeaderMalformed" || code == "IllegalLocationConstraintException"
}

// judge is what to do about an answer, and its kind.
func (c *client) judge(a answer) (hint string, kind error) {
	if hint, kind = judgeCode(a.code); kind != nil {
		return hint, kind
	}
	switch {
	case ofRegion(a.code):
		return a.regionHint(), fetcher.ErrRefused
	case a.status == http.StatusPreconditionFailed, a.status == http.StatusRequestedRangeNotSatisfiable:
		return "", errChanged
	case a.status == http.StatusTooManyRequests, a.status == http.StatusServiceUnavailable:
		return "wait", fetcher.ErrThrottled
	case httpsource.Passing(a.status), a.status == http.StatusTemporaryRedirect:
		return "try again later", fetcher.ErrTransient
	case a.status == http.StatusMovedPermanently:
		return a.regionHint(), fetcher.ErrRefused
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return c.accessHint(), fetcher.ErrRefused
	case a.status == http.StatusNotFound:
		return "check the spelling, and that the endpoint is an S3 server; what was listed may be removed by now", fetcher.ErrRefused
	case a.status == http.StatusNotImplemented:
		return "check that the endpoint is an S3 server; this one does not know what it is asked", fetcher.ErrRefused
	}
	return "check the source, the endpoint and the credentials; an object that is encrypted with a customer's own key cannot be read", fetcher.ErrRefused
}

// twiceHint is what to do about an endpoint that is not found and seems to name the
// bucket; "" if it does not. It is no refusal: a host may have such a name.
func (c *client) twiceHint(op httpsource.Operation, err error) string {
	var dns *net.DNSError
	if c.endpoint == nil || !errors.As(err, &dns) || !dns.IsNotFound {
		return ""
	}
	_, path, _ := strings.Cut(op.Origin, "s3://")
	bucket, _, _ := strings.Cut(path, "/")
	host := httpsource.Host(c.endpoint)
	rest, ok := strings.CutPrefix(host, bucket+".")
	if bucket == "" || !ok {
		return ""
	}
	return fmt.Sprintf("; the endpoint seems to name the bucket already: if so, write it as %s, and the bucket in the source alone", rest)
}

// accessHint is what to do where a reader may not read.
func (c *client) accessHint() string {
	if c.access.Unsigned {
		return "the bucket or this object is not public: give credentials, and leave out access.unsigned (--unsigned)"
	}
	hint := "let these credentials list the bucket and read its objects (s3:ListBucket, s3:GetObject, and the key's kms:Decrypt)"
	if !c.access.RequesterPays {
		hint += "; if the bucket's readers pay, accept that with access.requesterPays: true (--requester-pays)"
	}
	return hint
}

func (a answer) regionHint() string {
	if region := httpsource.ID(a.header.Get("X-Amz-Bucket-Region")); region != "" {
		return "the bucket is in another region: set AWS_REGION=" + region + ", or region in the file config"
	}
	return "the bucket is in another region: name it in AWS_REGION, or as region in the file config"
}

// classifyCredentials says what kind of failure it is that no credentials could
// be had.
func classifyCredentials(ctx context.Context, op httpsource.Operation, err error) error {
	if ended := op.Ended(ctx, nil); ended != nil {
		return ended
	}
	if e := op.Exceeded(err); e != nil && !fromMetadata(err) {
		return e
	}
	const hint = "give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role for this machine or pod; a public bucket needs none with access.unsigned: true (--unsigned)"
	var operation *smithy.OperationError
	_ = errors.As(err, &operation)
	if fromMetadata(err) {
		// The last of the chain: nothing gave any, and this machine has no role.
		return op.Fail(fetcher.ErrRefused, errors.New("there are no AWS credentials"), hint)
	}
	if a, ok := asAnswer(err); ok {
		e := op.Fail(fetcher.ErrRefused, fmt.Errorf("get AWS credentials: %w", httpsource.Answered(a.host, a.status, a.code, a.message, a.requestID)), hint)
		e.RetryAfter = httpsource.RetryAfter(a.header)
		switch {
		case a.status == http.StatusTooManyRequests, strings.HasPrefix(a.code, "Throttling"):
			e.Kind, e.Hint = fetcher.ErrThrottled, "wait"
		case httpsource.Passing(a.status):
			e.Kind, e.Hint = fetcher.ErrTransient, "try again later"
		}
		return e
	}
	if operation != nil { // asked, and no answer
		return op.Broken(asked(err), err)
	}
	return op.Fail(fetcher.ErrRefused, fmt.Errorf("get AWS credentials: %w", local(err)), hint)
}

// fromMetadata says whether it is a machine's own metadata service that failed.
func fromMetadata(err error) bool {
	var operation *smithy.OperationError
	return errors.As(err, &operation) && operation.ServiceID == "ec2imds"
}
