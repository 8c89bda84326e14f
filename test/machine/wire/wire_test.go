package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	for _, payload := range [][]byte{nil, []byte("text"), make([]byte, maxPayload)} {
		if err := Write(&b, KindStdout, payload); err != nil {
			t.Fatal(err)
		}
		kind, got, err := Read(&b)
		if err != nil || kind != KindStdout || !bytes.Equal(got, payload) {
			t.Errorf("%d bytes became %d of kind %q: %v", len(payload), len(got), kind, err)
		}
	}
	if _, _, err := Read(&b); !errors.Is(err, io.EOF) {
		t.Errorf("after the last frame: %v", err)
	}
}

func TestBrokenFrames(t *testing.T) {
	if err := Write(io.Discard, KindStdout, make([]byte, maxPayload+1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("writing a long frame: %v", err)
	}
	if _, _, err := Read(bytes.NewReader([]byte("O\xff\xff\xff\xff"))); !errors.Is(err, ErrTooLong) {
		t.Errorf("reading a long frame: %v", err)
	}
	for _, cut := range []string{"O\x00", "O\x00\x00\x00\x04tex", "O\x00\x00\x00\x04"} {
		if _, _, err := Read(bytes.NewReader([]byte(cut))); err == nil || errors.Is(err, ErrTooLong) {
			t.Errorf("reading %q: %v", cut, err)
		}
	}
}
