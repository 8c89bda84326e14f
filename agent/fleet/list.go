package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/agent/kubeclient"
)

const (
	// page is how many Nodes one request asks for: with a full annotation each
	// is 100 KiB.
	page = 200
	// patience is how long one request may take.
	patience = 30 * time.Second
)

// ListNodes reads every Node, page by page. It needs the right to list nodes and no
// other. The error says what to do.
func ListNodes(ctx context.Context, cfg *rest.Config) ([]corev1.Node, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = patience
	client, err := kubeclient.New(cfg)
	if err != nil {
		return nil, err
	}
	nodes, err := list(ctx, client.Nodes(), page)
	if err != nil {
		return nil, explain(cfg.Host, err)
	}
	return nodes, nil
}

func list(ctx context.Context, nodes *kubeclient.Nodes, page int64) ([]corev1.Node, error) {
	var out []corev1.Node
	o := metav1.ListOptions{Limit: page}
	for {
		l, err := nodes.List(ctx, o)
		if apierrors.IsResourceExpired(err) && o.Continue != "" {
			// The API server has forgotten the version that the first page had.
			out, o = nil, metav1.ListOptions{}
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, l.Items...)
		if l.Continue == "" {
			return out, nil
		}
		o.Continue = l.Continue
	}
}

// explain says what an error of the API server means here.
func explain(host string, err error) error {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case apierrors.IsForbidden(err):
		return fmt.Errorf("list nodes: %w; your account needs the right to list nodes", err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("list nodes: the API server at %s does not accept your credentials; log in again, or choose others with --kubeconfig or --context", host)
	case errors.As(err, &dns):
		return fmt.Errorf("reach the API server at %s: %w; check the address in your kubeconfig", host, unwrap(err))
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("reach the API server at %s: no answer within %s; check that it runs and that this machine can reach it", host, patience)
	case strings.Contains(err.Error(), "x509: "), strings.Contains(err.Error(), "tls: "):
		return fmt.Errorf("reach the API server at %s: %w; check the certificates in your kubeconfig", host, unwrap(err))
	}
	if _, ok := err.(apierrors.APIStatus); ok {
		return fmt.Errorf("list nodes: %w", err)
	}
	return fmt.Errorf("reach the API server at %s: %w; check that it runs and that this machine can reach it", host, unwrap(err))
}

// unwrap leaves the request's URL out, which says nothing to its reader.
func unwrap(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		if _, ok := err.(*net.OpError); ok { //nolint:errorlint // this very error of the chain
			return err
		}
		err = inner
	}
}
