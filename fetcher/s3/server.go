package s3

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/stoker-project/stoker/fetcher"
)

// client is the SDK's, and what is known of its server. Servers other than Amazon's
// lack one thing or another; what one of them refused once it is not asked again.
type client struct {
	*s3.Client
	// access is how the server is to be spoken to, endpoint where it is; nil: Amazon's.
	access   fetcher.Access
	endpoint *url.URL
	payer    types.RequestPayer
	// virtual: it wants the bucket before its name, though it was asked by path.
	virtual atomic.Bool
	// listing is the first of the ways to list that it knows.
	listing atomic.Int32
	// noIfMatch: it compares If-Match otherwise than by value; noChecksums: it
	// knows no x-amz-checksum-mode.
	noIfMatch, noChecksums atomic.Bool
}

func newClient(access fetcher.Access, sdk *s3.Client) *client {
	c := &client{Client: sdk, access: access}
	if base := sdk.Options().BaseEndpoint; base != nil {
		if u, err := url.Parse(*base); err == nil {
			c.endpoint = u
		}
	}
	if access.RequesterPays {
		c.payer = types.RequestPayerRequester
	}
	return c
}

// wantsVirtual reports whether a code is of a server that was asked by path and wants
// the bucket before its name: Alibaba's OSS, Tencent's COS, ByteDance's TOS, Huawei's
// OBS, in this order.
func wantsVirtual(code string) bool {
	return code == "SecondLevelDomainForbidden" || code == "PathStyleDomainForbidden" || code == "InvalidPathAccess" || code == "VirtualHostDomainRequired"
}

// ask asks a server, by the style of addressing that it takes.
func ask[T any](c *client, call func(...func(*s3.Options)) (T, error)) (T, error) {
	if c.virtual.Load() {
		return call(byName)
	}
	out, err := call()
	if c.access.Addressing == fetcher.AddressingPath || !wantsVirtual(codeOf(err)) {
		return out, err
	}
	if out, err = call(byName); err == nil {
		c.virtual.Store(true)
	}
	return out, err
}

func byName(o *s3.Options) { o.UsePathStyle = false }

// codeOf is the code of a server's refusal, or "".
func codeOf(err error) string {
	if err == nil {
		return ""
	}
	a, _ := asAnswer(err)
	return a.code
}

// refusesQuestion reports whether a server seems not to know what it was asked, as
// opposed to refusing this object or this reader: 501, and 400 without a code that
// means something else. A HEAD has no code.
func refusesQuestion(err error) bool {
	a, ok := asAnswer(err)
	if !ok {
		return false
	}
	return a.status == http.StatusNotImplemented || a.status == http.StatusBadRequest && !meant(a.code)
}

// meant reports whether a code says what is the matter.
func meant(code string) bool {
	_, kind := judgeCode(code)
	return kind != nil || ofRegion(code)
}

// unmet reports whether a server found that a condition does not hold.
func unmet(err error) bool {
	a, ok := asAnswer(err)
	return ok && (a.status == http.StatusPreconditionFailed || a.code == "PreconditionFailed")
}

// hostOfBuckets is how the names begin before which the well-known services want the
// bucket: those of AWS (and of who follows it), OSS, COS, TOS, OBS, Google, R2, Spaces.
var hostOfBuckets = regexp.MustCompile(`^(s3|oss|cos|tos|obs)[.-]|^storage\.googleapis\.com$|\.(r2\.cloudflarestorage|digitaloceanspaces)\.com$`)

// containsBucket reports whether the endpoint names the bucket, which would be named
// twice in every request, and what to write instead. Where addressing was chosen, a
// server is called so.
func (c *client) containsBucket(bucket string) (hint string, err error) {
	if c.endpoint == nil || c.access.Addressing != "" && c.access.Addressing != fetcher.AddressingAuto {
		return "", nil
	}
	right := *c.endpoint
	host, inHost := strings.CutPrefix(c.endpoint.Host, bucket+".")
	path, inPath := strings.CutSuffix(c.endpoint.Path, "/"+bucket)
	switch {
	case inHost && hostOfBuckets.MatchString(right.Hostname()[len(bucket)+1:]):
		right.Host = host
	case inPath:
		right.Path = path
	default:
		return "", nil
	}
	return fmt.Sprintf("write the endpoint as %s; if the server is called so, choose access.addressing (--addressing)", &right),
		fmt.Errorf("the endpoint %s names the bucket %s, which the source names already", c.endpoint, bucket)
}
