package s3

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// defaultRegion is asked where nothing names a region: its endpoint knows every
// bucket and says where it is. Servers other than Amazon's take any.
const defaultRegion = "us-east-1"

// clients keeps the client of the configuration last read: its credentials are
// cached in it, and got anew before they expire.
type clients struct {
	mu     sync.Mutex
	client *client
	// files is the content of the files that the client was made of.
	files []byte
}

// client returns a client for a bucket, with credentials that are good now. Files in
// CredentialsDir are read again, so that a rotated Secret takes effect.
func (d *Driver) client(ctx context.Context, op httpsource.Operation, bucket string) (*client, error) {
	if err := op.Ended(ctx, nil); err != nil {
		return nil, err
	}
	unusable := func(err error, hint string) error {
		return op.Ended(ctx, op.Fail(fetcher.ErrMisconfigured, err, hint))
	}
	files, err := readFiles(d.access.CredentialsDir)
	if err != nil {
		return nil, unusable(err, "mount a Secret with the keys config and credentials, as the AWS tools write these files")
	}
	d.options.Secrets.AddINI(files)
	c, err := d.clients.get(append(files, d.trust.Stamp()...), func() (*client, error) { return d.newClient(ctx) })
	if err != nil {
		return nil, unusable(err, "check AWS's configuration files and variables")
	}
	if hint, err := c.containsBucket(bucket); err != nil {
		return nil, unusable(err, hint)
	}
	if d.access.Unsigned {
		return c, nil
	}
	// The client would get them itself; here, what fails can be told apart.
	for _, name := range []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"} {
		d.options.Secrets.AddFile(os.Getenv(name)) // the SDK sends what is in it now
	}
	keys, err := c.Options().Credentials.Retrieve(ctx)
	if err != nil {
		return nil, classifyCredentials(ctx, op, err)
	}
	d.options.Secrets.Add(keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken)
	return c, nil
}

// get returns the client that was made of these files, or makes one.
func (c *clients) get(files []byte, make func() (*client, error)) (*client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil && bytes.Equal(files, c.files) {
		return c.client, nil
	}
	client, err := make()
	if err == nil {
		c.client, c.files = client, files
	}
	return client, err
}

// readFiles reads what AWS's files in dir contain, or nothing if dir is "".
func readFiles(dir string) ([]byte, error) {
	if dir == "" {
		return nil, nil
	}
	var all []byte
	found := false
	for _, name := range []string{"config", "credentials"} {
		text, err := smallfile.Read(filepath.Join(dir, name), smallfile.MaxCredential)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read credentials: %w", err)
		}
		found = found || err == nil
		all = fmt.Appendf(all, "%d\n%s", len(text), text)
	}
	if !found {
		return nil, fmt.Errorf("read credentials: neither config nor credentials is in %s: %w", dir, fs.ErrNotExist)
	}
	return all, nil
}

// checkSDKFiles refuses files that the SDK would read without a bound.
func checkSDKFiles() error {
	paths := []string{config.DefaultSharedConfigFilename(), config.DefaultSharedCredentialsFilename()}
	for _, variable := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_CA_BUNDLE"} {
		paths = append(paths, os.Getenv(variable))
	}
	if err := smallfile.Check(smallfile.MaxCredential, paths...); err != nil {
		return fmt.Errorf("read AWS's configuration: %w", err)
	}
	return nil
}

// newClient makes a client as the SDK's default chain says, or of the files in
// CredentialsDir alone.
func (d *Driver) newClient(ctx context.Context) (*client, error) {
	giver, err := credentialsClient(d.trust)
	if err != nil {
		return nil, err
	}
	load := []func(*config.LoadOptions) error{
		config.WithDefaultRegion(defaultRegion),
		// Its own would write to standard error, between lines of ours; what
		// matters comes back as an error.
		config.WithLogger(logging.Nop{}),
		config.WithAPIOptions(boundCredentials(d.options.Bounds)),
		config.WithHTTPClient(giver),
	}
	if dir := d.access.CredentialsDir; dir != "" {
		load = append(load,
			config.WithSharedConfigFiles([]string{filepath.Join(dir, "config")}),
			config.WithSharedCredentialsFiles([]string{filepath.Join(dir, "credentials")}),
			// A profile that was asked for comes before the keys of the environment,
			// which are another's.
			config.WithSharedConfigProfile("default"))
	}
	if err := checkSDKFiles(); err != nil {
		return nil, err
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("read AWS's configuration: %w", err)
	}
	d.addKeys(cfg.ConfigSources)
	if d.own != nil {
		d.own.Replace(bundle(cfg.ConfigSources, d.access.CredentialsDir != ""))
	}
	endpoint, err := d.endpoint(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	cfg.APIOptions = nil // they are for what gives credentials
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.HTTPClient = &http.Client{Transport: d.options.Transport, CheckRedirect: httpsource.NoRedirects}
		o.Retryer = aws.NopRetryer{}
		o.APIOptions = append(o.APIOptions, awsmiddleware.AddUserAgentKey(d.options.UserAgent))
		// The engine holds all bytes against one digest; the SDK would do so
		// once more, for some transfers.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
		if endpoint != "" {
			o.BaseEndpoint = aws.String(endpoint)
		}
		o.HTTPSignerV4 = newSigner()
		if d.access.Unsigned {
			o.Credentials = aws.AnonymousCredentials{}
		}
		switch d.access.Addressing {
		case fetcher.AddressingPath:
			o.UsePathStyle = true
		case fetcher.AddressingVirtual:
			o.UsePathStyle = false
		default:
			// A server of one's own has one name; Amazon's answers to both styles.
			o.UsePathStyle = o.BaseEndpoint != nil
		}
	})
	if err := checkEndpoint(client); err != nil {
		return nil, err
	}
	return newClient(d.access, client), nil
}

// bundle is the file of certificates that AWS_CA_BUNDLE names, or ca_bundle in the
// configuration file; ownFiles puts the latter first, as they are meant for the keys
// beside them.
func bundle(sources []any, ownFiles bool) string {
	environment, file := "", ""
	for _, source := range sources {
		switch s := source.(type) {
		case config.EnvConfig:
			environment = cmp.Or(environment, s.CustomCABundle)
		case config.SharedConfig:
			file = cmp.Or(file, s.CustomCABundle)
		}
	}
	if ownFiles {
		return cmp.Or(file, environment)
	}
	return cmp.Or(environment, file)
}

// addKeys takes the keys of the configuration, also those that only get others.
func (d *Driver) addKeys(sources []any) {
	for _, source := range sources {
		shared, ok := source.(config.SharedConfig)
		for s := &shared; ok && s != nil; s = s.Source {
			d.options.Secrets.Add(s.Credentials.AccessKeyID, s.Credentials.SecretAccessKey, s.Credentials.SessionToken)
		}
	}
}

// endpoint is the endpoint that was asked for, or "" where the SDK's chain
// decides. What files in CredentialsDir say goes before the environment: their
// keys are meant for their region and server.
func (d *Driver) endpoint(ctx context.Context, cfg *aws.Config) (string, error) {
	endpoint := d.access.Endpoint
	if d.access.CredentialsDir != "" {
		for _, source := range cfg.ConfigSources {
			shared, ok := source.(config.SharedConfig)
			if !ok {
				continue
			}
			if shared.Region != "" {
				cfg.Region = shared.Region
			}
			if service, found, err := shared.GetServiceBaseEndpoint(ctx, s3.ServiceID); err == nil && found && endpoint == "" {
				endpoint = service
			}
			if endpoint == "" {
				endpoint = shared.BaseEndpoint
			}
		}
	}
	if endpoint == "" {
		return "", nil
	}
	u, err := httpsource.ParseEndpoint(endpoint)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}
