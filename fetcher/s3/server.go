package s3

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
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
	// region is the configured one.
	region string
	// where has, by bucket, a [where] that was learned.
	where sync.Map
	// listing is the first of the ways to list that it knows.
	listing atomic.Int32
	// noIfMatch: it knows no If-Match, or compares it otherwise than by value;
	// noChecksums: it knows no x-amz-checksum-mode; noHead: it knows no HEAD.
	noIfMatch, noChecksums, noHead atomic.Bool
}

func newClient(access fetcher.Access, sdk *s3.Client) *client {
	c := &client{Client: sdk, access: access, region: sdk.Options().Region}
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

// ask asks a server. What its refusal says of where the bucket is to be asked for is
// done, and kept once it was right.
func ask[T any](c *client, bucket string, call func(func(*s3.Options)) (T, error)) (T, error) {
	known, _ := c.where.Load(bucket)
	now, _ := known.(where)
	out, err := call(now.apply)
	if err == nil {
		return out, nil
	}
	better := c.elsewhere(now, err)
	if better == now {
		return out, err
	}
	if out, err = call(better.apply); err == nil {
		c.where.Store(bucket, better)
	}
	return out, err
}

// where is how a bucket is asked for, where that is not as the client was made.
type where struct {
	// virtual: before the server's name.
	virtual bool
	// region is another one than configured; "": that one.
	region string
}

func (w where) apply(o *s3.Options) {
	if w.virtual {
		o.UsePathStyle = false
	}
	if w.region != "" {
		o.Region = w.region
	}
}

// elsewhere returns how a refusal says that the bucket is to be asked for. Amazon names
// a bucket's region to whoever asks another one; of servers of one's own the region
// only stands in signatures, and is theirs to configure.
func (c *client) elsewhere(now where, err error) where {
	a, _ := asAnswer(err)
	if wantsVirtual(a.code) && c.access.Addressing != fetcher.AddressingPath {
		now.virtual = true
	}
	region := a.header.Get("X-Amz-Bucket-Region")
	other := a.status == http.StatusMovedPermanently || a.status == http.StatusBadRequest // a HEAD has no code
	if other && c.endpoint == nil && isRegion.MatchString(region) && region != c.region {
		now.region = region
	}
	return now
}

// isRegion is what becomes a part of a host's name.
var isRegion = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)+$`)

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

// refusesList is refusesQuestion for a way to list. A server that routes by what it
// knows answers 405 to a path with other parameters.
func refusesList(err error) bool {
	a, ok := asAnswer(err)
	return refusesQuestion(err) || ok && a.status == http.StatusMethodNotAllowed
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
	path, inPath := strings.CutSuffix(strings.TrimRight(c.endpoint.Path, "/"), "/"+bucket)
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
