package s3

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// signer signs what S3 demands: the host and the headers of S3's own
// (docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html). The SDK
// signs all headers, Accept-Encoding and its own Amz-Sdk-... among them; what stands
// before a server, Google's front end too, changes or removes those.
type signer struct{ v4 *v4.Signer }

func newSigner() signer {
	return signer{v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })} // as the SDK does for S3
}

// SignHTTP implements v4.HTTPSigner.
func (s signer) SignHTTP( //nolint:revive // the SDK's interface
	ctx context.Context, keys aws.Credentials, r *http.Request, payloadHash, service, region string, at time.Time, options ...func(*v4.SignerOptions),
) error {
	all := r.Header
	r.Header = http.Header{}
	for name, values := range all {
		if strings.HasPrefix(name, "X-Amz-") {
			r.Header[name] = values
		}
	}
	err := s.v4.SignHTTP(ctx, keys, r, payloadHash, service, region, at, options...)
	for name, values := range r.Header {
		all[name] = values
	}
	r.Header = all
	return err //nolint:wrapcheck // the SDK's own, back to it
}
