package s3

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	smithymiddleware "github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// maxCredentials is how many bytes an answer with credentials may have.
const maxCredentials = 1 << 20

// credentialsClient is the SDK's own client, which knows how soon to give up on each
// service that gives credentials, over our proxies. A company's own services are behind
// the same authority as its buckets; AWS's own setting is added by the SDK.
func credentialsClient(trust httpsource.Trust) (*awshttp.BuildableClient, error) {
	var pool *x509.CertPool
	if len(trust.Beside) > 0 {
		var err error
		if pool, err = trust.Pool(); err != nil {
			return nil, err
		}
	}
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.Proxy = httpsource.Proxy()
		if pool != nil {
			t.TLSClientConfig.RootCAs = pool
		}
	}), nil
}

// boundCredentials bounds the answers to the SDK's requests for credentials. They
// keep their own HTTP client, which knows how soon to give up on each service.
func boundCredentials(bounds httpsource.Bounds) []func(*smithymiddleware.Stack) error {
	bounds.AnswerBytes = maxCredentials
	exchange := smithymiddleware.DeserializeMiddlewareFunc("StokerBounds", func(
		ctx context.Context, in smithymiddleware.DeserializeInput, next smithymiddleware.DeserializeHandler,
	) (out smithymiddleware.DeserializeOutput, metadata smithymiddleware.Metadata, err error) {
		host := ""
		if req, ok := in.Request.(*smithyhttp.Request); ok {
			host = httpsource.Host(req.URL)
		}
		_, err = bounds.Exchange(ctx, host, func(ctx context.Context) (*http.Response, error) { //nolint:bodyclose // the SDK closes it
			out, metadata, err = next.HandleDeserialize(ctx, in)
			resp, ok := out.RawResponse.(*smithyhttp.Response)
			switch {
			case err != nil:
				return nil, err
			case !ok || resp.Response == nil:
				return nil, fmt.Errorf("an answer of type %T", out.RawResponse)
			}
			return resp.Response, nil
		})
		return out, metadata, err
	})
	return []func(*smithymiddleware.Stack) error{func(stack *smithymiddleware.Stack) error {
		// The last is the one before the exchange itself.
		return stack.Deserialize.Add(exchange, smithymiddleware.After)
	}}
}
