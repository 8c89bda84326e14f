package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// errPortTaken says that somebody else took a port between our giving it free and a component's taking it.
var errPortTaken = errors.New("port is taken")

// probe asks components whether they are ready.
type probe struct {
	client *http.Client
}

func newProbe(keys *pki) (*probe, error) {
	admin, err := tls.X509KeyPair(keys.admin.cert, keys.admin.key)
	if err != nil {
		return nil, fmt.Errorf("read the administrator's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(keys.authority.cert)
	return &probe{client: &http.Client{
		Timeout: 5 * time.Second,
		// A connection for each question: a kept one would hold goroutines after the cluster is gone.
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{admin}, MinVersion: tls.VersionTLS12},
		},
	}}, nil
}

// waitReady returns when the component says that it is ready, and an error with the end of its log if it dies or is
// not ready when ctx ends.
func (p *probe) waitReady(ctx context.Context, c component, running *process) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-running.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := WaitFor(ctx, c.name+" to be ready", func(ctx context.Context) (bool, error) {
		return p.ready(ctx, c.port.url()+c.readyPath)
	})
	cancel()
	<-watched
	if err == nil {
		return nil
	}
	select {
	case <-running.done:
		if portTaken(running.logPath) {
			return fmt.Errorf("%w: %w", errPortTaken, running.exitError())
		}
		return running.exitError()
	default:
		return fmt.Errorf("%w\n%s", err, logTail(running.logPath))
	}
}

// ready asks once. An error says why not.
func (p *probe) ready(ctx context.Context, url string) (bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return true, nil
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	return false, fmt.Errorf("%s answers %s: %s", url, response.Status, lastLines(body))
}

// portTaken tells from its log whether a component ended because its port was in use. They all say it in the words of
// the operating system.
func portTaken(logPath string) bool {
	content, err := os.ReadFile(logPath)
	return err == nil && bytes.Contains(content, []byte("address already in use"))
}

// closeIdleConnections ends the goroutines of connections that the client keeps for later.
func closeIdleConnections(client kubernetes.Interface) {
	if rc, ok := client.Discovery().RESTClient().(*rest.RESTClient); ok && rc.Client != nil {
		rc.Client.CloseIdleConnections()
	}
}
