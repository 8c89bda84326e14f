//go:build linux

package link_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/bench/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Bytes come over whole, no faster than the link, though packets are lost.
func TestLink(t *testing.T) {
	if err := link.Possible(); err != nil {
		t.Skip("SKIPPED:", err)
	}
	shape := link.Shape{Rate: 50_000_000, RTT: 10 * time.Millisecond, Loss: 0.01}
	l, err := link.New(t.Context(), shape)
	if err != nil {
		t.Fatal(err)
	}
	l.Reset(1)
	sent := make([]byte, 2<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(sent) // never fails

	var listener net.Listener
	err = l.Server.Do(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(link.ServerIP, "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = conn.Write(sent)
			_ = conn.Close()
		}
		served <- err
	}()
	began := time.Now()
	var got []byte
	err = l.Client.Do(func() error {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		got, err = io.ReadAll(conn)
		return err
	})
	took := time.Since(began)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came of %d, or others", len(got), len(sent))
	}
	// The last packets may still wait where the line ends; a queue full is allowed.
	if least := time.Duration(int64(len(sent)) * 8 * int64(time.Second) / shape.Rate); took < least {
		t.Errorf("it took %s, and the link needs %s", took, least)
	}
	if s := l.Stats(); s.Lost == 0 || s.Delivered < int64(len(sent)/1500) {
		t.Errorf("packets: %+v", s)
	}
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
