package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent/kubeclient"
)

// Limits of the whole status in a Lease, in bytes.
const (
	// maxWhole is what it may take as base64 of gzip: all annotations of an object
	// share 256 KiB.
	maxWhole = 200 << 10
	// maxUnpacked is what a reader unpacks at most.
	maxUnpacked = 16 << 20
)

// maxObjectName is the API server's limit for the name of a Lease, in characters.
const maxObjectName = 253

// StatusLeaseLabel marks the Leases that hold a whole [NodeStatus]; its value is "node".
const StatusLeaseLabel = Domain + "/status-of"

// StatusLease names the Lease that holds what has no room in a Node's annotation.
type StatusLease struct{ Namespace, Name string }

// String is the value of [NodeStatus.More].
func (l StatusLease) String() string { return "leases/" + l.Namespace + "/" + l.Name }

// ParseStatusLease reads a value of [NodeStatus.More]; ok is false for what this
// version does not know.
func ParseStatusLease(more string) (l StatusLease, ok bool) {
	kind, name, _ := strings.Cut(more, "/")
	l.Namespace, l.Name, _ = strings.Cut(name, "/")
	return l, kind == "leases" && l.Namespace != "" && l.Name != "" && !strings.Contains(l.Name, "/")
}

// leaseOf is the Lease of a node; the zero value where the agent has none to write, or
// the node's name leaves no room for the prefix.
func (c StatusConfig) leaseOf(node string) StatusLease {
	l := StatusLease{Namespace: c.Namespace, Name: c.Lease + "." + node}
	if c.Namespace == "" || c.Lease == "" || node == "" || len(l.Name) > maxObjectName {
		return StatusLease{}
	}
	return l
}

// pack makes text fit for an annotation of its own.
func pack(text string) (string, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		return "", err
	}
	if err := z.Close(); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
}

// UnpackStatus reads what a status Lease holds: compact JSON of a [NodeStatus], with
// every model and every text. At most 16 MiB are unpacked.
func UnpackStatus(packed string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(packed)
	if err != nil {
		return "", fmt.Errorf("unpack the status: %w", err)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return "", fmt.Errorf("unpack the status: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(z, maxUnpacked+1))
	if err != nil {
		return "", fmt.Errorf("unpack the status: %w", err)
	}
	if len(text) > maxUnpacked {
		return "", fmt.Errorf("unpack the status: it is larger than %s", sizeText(maxUnpacked))
	}
	return string(text), nil
}

// packWhole renders the whole status for the Lease. Where even that has too many
// models, the least important ones go.
func (s NodeStatus) packWhole() (string, error) {
	for limit := maxUnpacked; ; limit /= 2 {
		text, _, err := s.encode(limit)
		if err != nil {
			return "", err
		}
		packed, err := pack(text)
		if err != nil || len(packed) <= maxWhole {
			return packed, err
		}
	}
}

// statusLeaseAPI writes the agent's own status Lease: create and patch.
type statusLeaseAPI struct {
	leases *kubeclient.Leases
	node   string
}

// errNoStatusLease is a status Lease that the account may not write.
var errNoStatusLease = errors.New("the agent's account needs create and patch on leases in the release's namespace; render the chart again, or see docs/security.md")

// apply writes the Lease, or makes it, by server-side apply. It has no owner: an API
// server may ask for more rights before it takes one.
func (a statusLeaseAPI) apply(ctx context.Context, l StatusLease, packed string) error {
	lease := coordinationv1.Lease{
		TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{
			Name: l.Name, Namespace: l.Namespace, Labels: map[string]string{StatusLeaseLabel: "node"},
			Annotations: map[string]string{StatusAnnotation: packed},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &a.node},
	}
	data, err := json.Marshal(lease)
	if err != nil {
		return err
	}
	force := true
	_, err = a.leases.Patch(ctx, l.Name, types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: FieldManager, Force: &force})
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("write lease %s/%s: %w; %w", l.Namespace, l.Name, err, errNoStatusLease)
	case err != nil:
		return fmt.Errorf("write lease %s/%s: %w", l.Namespace, l.Name, err)
	}
	return nil
}
