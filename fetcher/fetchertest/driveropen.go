package fetchertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

func testOpenMissing(s *suite) {
	t := s.t
	obj := s.object(t, smallFile)
	obj.File.Path = "not-there.json"
	_, err := s.Driver.Open(t.Context(), obj, 0, obj.File.Size)
	s.wantKind(t, err, fetcher.ErrRefused)
	if !strings.Contains(err.Error(), "not-there.json") {
		t.Errorf("the error does not name the file: %v", err)
	}
}

func testOpenConcurrent(s *suite) {
	t := s.t
	obj := s.object(t, bigFile)
	const parts = 16
	next := make(chan int64, parts)
	for i := range int64(parts) {
		next <- i
	}
	inParallel(t, parts, func() error {
		i := <-next
		from, to := i*obj.File.Size/parts, (i+1)*obj.File.Size/parts
		return s.checkRange(t.Context(), obj, from, to-from)
	})
}

func testOpenEnded(s *suite) {
	t := s.t
	obj := s.object(t, bigFile)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Driver.Open(ctx, obj, 0, obj.File.Size)
	s.wantEnded(t, err)
}

func testCloseEarly(s *suite) {
	t := s.t
	body := s.open(t.Context(), t, s.object(t, bigFile))
	if _, err := io.ReadFull(body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := body.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func testReadEnded(s *suite) {
	t := s.t
	obj := s.object(t, bigFile)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := s.open(ctx, t, obj)
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err := io.Copy(io.Discard, body) // also if all had arrived
	s.wantEnded(t, err)
}

func testReadCut(s *suite) {
	t := s.t
	for _, n := range []int64{0, 1, 600_000} {
		obj := s.object(t, bigFile)
		s.Cut(t, bigFile, n)
		body, err := s.Driver.Open(t.Context(), obj, 0, obj.File.Size)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(body)
			_ = body.Close()
		}
		s.wantKind(t, err, fetcher.ErrTransient)
		if int64(len(got)) > n || !bytes.Equal(got, s.files[bigFile][:len(got)]) {
			t.Errorf("%d bytes that were never sent", len(got))
		}
	}
}

func testReadStall(s *suite) {
	t := s.t
	obj := s.object(t, bigFile)
	s.Stall(t, bigFile, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := s.open(ctx, t, obj)
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := body.Read(make([]byte, 1))
		ended <- err
	}()
	cancel()
	select {
	case err := <-ended:
		s.wantEnded(t, err)
	case <-time.After(deadline):
		t.Fatal("Read goes on though its context has ended")
	}
}

func testReadChanged(s *suite) {
	t := s.t
	obj := s.object(t, bigFile)
	body := s.open(t.Context(), t, obj)
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	s.Change(t, bigFile, bytes.Repeat([]byte{1}, len(s.files[bigFile])+1))
	if !s.ChangedWhileReading {
		rest, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(rest, s.files[bigFile][100:]) {
			t.Errorf("the old revision does not stay readable: %v", err)
		}
		return
	}
	_, err := io.Copy(io.Discard, body)
	s.wantKind(t, err, fetcher.ErrRefused)
	if !strings.Contains(err.Error(), bigFile) {
		t.Errorf("the error does not name the file: %v", err)
	}
	_, err = s.Driver.Open(t.Context(), obj, 0, obj.File.Size)
	s.wantKind(t, err, fetcher.ErrRefused)
}

func testFailKinds(s *suite) {
	t := s.t
	for _, kind := range []error{fetcher.ErrTransient, fetcher.ErrRefused, fetcher.ErrThrottled} {
		t.Run(kind.Error(), func(t *testing.T) {
			obj := s.object(t, bigFile)
			s.Fail(t, bigFile, kind)
			_, err := s.Driver.Open(t.Context(), obj, 0, obj.File.Size)
			s.wantKind(t, err, kind)
			var e *fetcher.Error
			if errors.As(err, &e) && errors.Is(kind, fetcher.ErrThrottled) && e.RetryAfter < time.Second {
				t.Errorf("throttled for %s, the source said more", e.RetryAfter)
			}
		})
	}
}
