package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// ErrAddress is a pod that is not asked, because of where it would be.
var ErrAddress = errors.New("it is not asked")

const (
	// askTimeout bounds one question, from the connection to the last byte.
	askTimeout = 5 * time.Second
	// maxHeaders bounds the headers of an answer, in bytes.
	maxHeaders = 16 << 10
)

// Asker reads metrics pages of pods. It sends nothing of itself: no credentials, cookies or proxy, and follows no redirect.
type Asker struct {
	client *http.Client
	own    func() ([]net.Addr, error)
}

// NewAsker makes one that connects by dial; nil: directly.
func NewAsker(dial func(ctx context.Context, network, address string) (net.Conn, error)) *Asker {
	if dial == nil {
		dial = (&net.Dialer{Timeout: askTimeout}).DialContext
	}
	return &Asker{
		own: net.InterfaceAddrs,
		client: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext: dial, Proxy: nil, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeaders,
			},
		},
	}
}

// Page reads the metrics page of a pod: within five seconds, and of at most MaxPage bytes. It fails with ErrAddress for an
// address that cannot be a pod's own; nodeAddresses are the node's. No error repeats anything of an answer.
func (a *Asker) Page(ctx context.Context, pod netip.AddrPort, nodeAddresses []netip.Addr) ([]byte, error) {
	if err := a.check(pod.Addr(), nodeAddresses); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+pod.String()+"/metrics", http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("read the metrics page: %w", err)
	}
	req.Header.Set("Accept", "text/plain")
	req.Header.Set("User-Agent", "stoker")
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read the metrics page: %w", connection(err))
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the metrics page: the answer has status %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxPage+1))
	if err != nil {
		return nil, fmt.Errorf("read the metrics page: %w", connection(err))
	}
	if len(data) > MaxPage {
		return nil, fmt.Errorf("read the metrics page: %w: it is longer than %d bytes", ErrPage, MaxPage)
	}
	return data, nil
}

// errConnection stands for what the other side did, whose words are not repeated.
var errConnection = errors.New("the connection or the answer broke")

// connection leaves of an error what this machine itself says.
func connection(err error) error {
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no whole answer within %s", askTimeout)
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &op):
		return op
	}
	return errConnection
}

// metadata are the addresses at which clouds answer a machine with its identity, beside those that are link-local.
func metadata() []netip.Addr {
	return []netip.Addr{
		netip.MustParseAddr("fd00:ec2::254"),   // AWS
		netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
		netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
		netip.MustParseAddr("168.63.129.16"),   // Azure
		netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud
	}
}

// check refuses addresses that are no pod's own: a status that somebody else wrote must not lead the agent to itself, to
// its node, or to what answers it alone.
func (a *Asker) check(ip netip.Addr, node []netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	switch {
	case !ip.IsValid(), ip.IsUnspecified(), ip.IsMulticast():
		return fmt.Errorf("%w: it has no address of its own", ErrAddress)
	case ip.IsLoopback(), ip.IsLinkLocalUnicast(), slices.Contains(metadata(), ip):
		return fmt.Errorf("%w: its address is no pod's", ErrAddress)
	}
	if slices.ContainsFunc(node, func(n netip.Addr) bool { return n.Unmap().WithZone("") == ip }) {
		return fmt.Errorf("%w: its address is the node's", ErrAddress)
	}
	own, err := a.own()
	if err != nil {
		return fmt.Errorf("read this machine's addresses: %w", err)
	}
	for _, addr := range own {
		if prefix, err := netip.ParsePrefix(addr.String()); err == nil && prefix.Addr().Unmap() == ip {
			return fmt.Errorf("%w: its address is the agent's", ErrAddress)
		}
	}
	return nil
}
