package gcs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/storage"
	"google.golang.org/api/option"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// Where Google's own service is, and the only thing that is asked of it.
const (
	defaultEndpoint = "https://storage.googleapis.com"
	apiPath         = "/storage/v1/"
	readOnlyScope   = "https://www.googleapis.com/auth/devstorage.read_only"
)

// client is Google's, and what errors say of it.
type client struct {
	*storage.Client
	host                string
	anonymous, unsigned bool
	// payer is the project that pays for what is read, or "" if the bucket's does.
	payer string
}

// bucket is a bucket of the service, with who pays for it.
func (c *client) bucket(name string) *storage.BucketHandle {
	if c.payer != "" {
		return c.Bucket(name).UserProject(c.payer)
	}
	return c.Bucket(name)
}

// clients keeps the client of the configuration last read: its token is cached
// in it, and got anew before it expires.
type clients struct {
	mu     sync.Mutex
	client *client
	// key is the key.json that the client was made of.
	key []byte
}

// client returns a client with the credentials that are good now. key.json in
// CredentialsDir is read again, so that a rotated Secret takes effect.
func (d *Driver) client(ctx context.Context, op httpsource.Operation) (*client, error) {
	if err := op.Ended(ctx, nil); err != nil {
		return nil, err
	}
	var key []byte
	if dir := d.access.CredentialsDir; dir != "" {
		var err error
		if key, err = smallfile.Read(filepath.Join(dir, "key.json"), smallfile.MaxCredential); err != nil {
			return nil, op.Fail(fetcher.ErrMisconfigured, fmt.Errorf("read credentials: %w", err), "mount a Secret with the key key.json, a Google credentials file")
		}
	}
	d.clients.mu.Lock()
	defer d.clients.mu.Unlock()
	if d.clients.client != nil && bytes.Equal(key, d.clients.key) {
		return d.clients.client, nil
	}
	c, err := d.newClient(ctx, key)
	if err != nil {
		return nil, op.Ended(ctx, op.Fail(fetcher.ErrMisconfigured, err, "check the Google credentials file"))
	}
	d.clients.client, d.clients.key = c, key
	return c, nil
}

// newClient makes a client of key, if not nil, or of the environment.
func (d *Driver) newClient(ctx context.Context, key []byte) (*client, error) {
	endpoint, emulated, err := d.endpoint()
	if err != nil {
		return nil, err
	}
	var creds *auth.Credentials
	if !emulated && !d.access.Unsigned {
		d.options.Secrets.AddJSON(key) // also if it turns out to be of no use
		if creds, err = d.detect(key); err != nil {
			return nil, err
		}
	}
	if creds != nil {
		d.options.Secrets.AddJSON(creds.JSON())
	}
	payer, err := d.payer(ctx, creds)
	if err != nil {
		return nil, err
	}
	httpClient := &http.Client{
		Transport: &authorized{
			base: d.options.Transport, credentials: creds, secrets: d.options.Secrets, scheme: endpoint.Scheme, host: endpoint.Host, userAgent: d.options.UserAgent,
		},
		CheckRedirect: httpsource.NoRedirects,
	}
	c, err := storage.NewClient(context.WithoutCancel(ctx), // the client outlives the operation that needs it first
		option.WithHTTPClient(httpClient), option.WithoutAuthentication(), // ours has done that
		option.WithEndpoint(endpoint.String()+apiPath), storage.WithJSONReads())
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	c.SetRetry(storage.WithPolicy(storage.RetryNever))
	return &client{Client: c, host: endpoint.Host, anonymous: creds == nil, unsigned: d.access.Unsigned, payer: payer}, nil
}

// payer is the project that pays where the requester does: the quota project, by
// Google's own variable or the credentials, else the project that these are of.
func (d *Driver) payer(ctx context.Context, creds *auth.Credentials) (string, error) {
	if !d.access.RequesterPays {
		return "", nil
	}
	quota, project := os.Getenv("GOOGLE_CLOUD_QUOTA_PROJECT"), os.Getenv("GOOGLE_CLOUD_PROJECT")
	if creds != nil && quota == "" {
		quota, _ = creds.QuotaProjectID(ctx) // without one, the next is asked
	}
	if creds != nil && quota == "" && project == "" {
		project, _ = creds.ProjectID(ctx)
	}
	if quota = cmp.Or(quota, project); quota == "" {
		return "", errors.New("which project pays for what is read is not known; name it in GOOGLE_CLOUD_QUOTA_PROJECT, or as quota_project_id in key.json")
	}
	return quota, nil
}

// endpoint is where the service is; an emulator takes no credentials.
func (d *Driver) endpoint() (u *url.URL, emulated bool, err error) {
	endpoint := d.access.Endpoint
	if host := os.Getenv("STORAGE_EMULATOR_HOST"); endpoint == "" && host != "" {
		endpoint, emulated = host, true
		if !strings.Contains(host, "://") {
			endpoint = "http://" + host
		}
	}
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	u, err = httpsource.ParseEndpoint(endpoint)
	if err != nil && emulated {
		err = fmt.Errorf("STORAGE_EMULATOR_HOST: %w", err)
	}
	return u, emulated, err
}

// detect finds credentials: of key, else the application default ones, or nil if
// there are none, as for a reader of public buckets.
func (d *Driver) detect(key []byte) (*auth.Credentials, error) {
	o := &credentials.DetectOptions{
		Scopes: []string{readOnlyScope},
		Client: &http.Client{Transport: d.tokens, CheckRedirect: httpsource.NoRedirects},
	}
	if key != nil {
		// Whoever mounts the Secret decides which kind of credentials it has.
		var kind struct {
			Type credentials.CredType `json:"type"`
		}
		err := json.Unmarshal(key, &kind)
		if err != nil {
			return nil, fmt.Errorf("read key.json: %w", err)
		}
		creds, err := credentials.NewCredentialsFromJSON(kind.Type, key, o)
		if err != nil {
			return nil, fmt.Errorf("read key.json: %w", err)
		}
		return creds, nil
	}
	// Google's library reads it without a bound.
	if err := smallfile.Check(smallfile.MaxCredential, defaultFiles()...); err != nil {
		return nil, fmt.Errorf("read the default credentials: %w", err)
	}
	creds, err := credentials.DetectDefault(o)
	switch {
	case err == nil:
		return creds, nil
	case strings.Contains(err.Error(), "could not find default credentials"): // there is no other way to tell
		return nil, nil
	}
	return nil, fmt.Errorf("read the default credentials: %w", err)
}

// defaultFiles are where the application default credentials may be.
func defaultFiles() []string {
	files := []string{os.Getenv("GOOGLE_APPLICATION_CREDENTIALS")}
	if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".config", "gcloud", "application_default_credentials.json"))
	}
	return files
}
