// Package wire is the protocol between a test and the machines that it boots: how a command is started in a machine,
// and how its output, its end and the signals sent to it travel. There is one TCP connection for each command. The
// test writes a Start frame first, then any number of Signal frames; the machine writes Stdout and Stderr frames and
// one Exit frame last. Closing the connection before that kills the command.
//
// It is not for networks that anybody else can reach: whoever connects runs commands as root.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Port is the TCP port that machines serve commands on, at their control address.
const Port = 7

// maxPayload is the longest payload of a frame, in bytes.
const maxPayload = 1 << 20

// ErrTooLong is returned for a frame whose payload is longer than 1 MiB.
var ErrTooLong = errors.New("frame is longer than 1 MiB")

// Kind tells frames apart.
type Kind byte

// Kinds of frames. The payload of Start is a Command, of Signal a Signal and of Exit an Exit, in JSON; those of Stdout
// and Stderr are bytes as the command wrote them.
const (
	KindStart  Kind = 'C'
	KindSignal Kind = 'S'
	KindStdout Kind = 'O'
	KindStderr Kind = 'E'
	KindExit   Kind = 'X'
)

// Command is what a machine runs, by bash, as root, as the leader of a process group of its own.
type Command struct {
	Script string `json:"script"`
	// Env holds additional variables, as NAME=value.
	Env []string `json:"env,omitempty"`
}

// Signal is sent to every process of the command's group.
type Signal struct {
	Number int `json:"number"`
}

// Exit is how a command ended.
type Exit struct {
	// Code is the exit code, or 128 and the signal's number, as shells have it.
	Code int `json:"code"`
	// Signal is the number of the signal that ended the command, or 0.
	Signal int `json:"signal,omitempty"`
	// Error is why the command could not be started; the other fields mean nothing then.
	Error string `json:"error,omitempty"`
}

// Write writes one frame. It is not safe for concurrent use on one writer.
func Write(w io.Writer, kind Kind, payload []byte) error {
	if len(payload) > maxPayload {
		return ErrTooLong
	}
	frame := make([]byte, 5, 5+len(payload))
	frame[0] = byte(kind)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	_, err := w.Write(append(frame, payload...))
	return err
}

// WriteJSON writes one frame whose payload is value in JSON.
func WriteJSON(w io.Writer, kind Kind, value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return Write(w, kind, payload)
}

// Read reads one frame. It returns io.EOF if the other side closed the connection between two frames.
func Read(r io.Reader) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxPayload {
		return 0, nil, ErrTooLong
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("read a frame of %d bytes: %w", size, err)
	}
	return Kind(head[0]), payload, nil
}
