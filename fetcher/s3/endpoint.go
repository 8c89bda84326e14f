package s3

import (
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// checkEndpoint refuses an endpoint that is no address. Where AWS's files or variables
// name it, the SDK would find out only when it asks, with an error like those of a
// network.
func checkEndpoint(client *s3.Client) error {
	endpoint := client.Options().BaseEndpoint
	if endpoint == nil {
		return nil
	}
	_, err := httpsource.ParseEndpoint(*endpoint)
	return err
}
