package attacks_test

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/http"
	"strings"
)

// Types of records of TLS.
const (
	recordHandshake   = 22
	recordApplication = 23
)

// renegotiates answers a request after having asked times to negotiate anew, which
// crypto/tls cannot: from the server's Finished on, records are made here.
func renegotiates(times int) secured {
	return func(conn net.Conn, good *tls.Config) {
		config, keys, sent := good.Clone(), &bytes.Buffer{}, &written{Conn: conn}
		config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
		config.KeyLogWriter = keys
		secure := tls.Server(sent, config)
		if _, err := http.ReadRequest(bufio.NewReader(secure)); err != nil {
			return
		}
		write := records(sent.first[11:43], keys.String())
		for range times {
			if _, err := conn.Write(write(recordHandshake, []byte{0, 0, 0, 0})); err != nil { // HelloRequest
				return
			}
		}
		_, _ = conn.Write(write(recordApplication, []byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))) // or the client has gone
	}
}

// written keeps what is written first: a server's hello.
type written struct {
	net.Conn
	first []byte
}

func (w *written) Write(p []byte) (int, error) {
	if w.first == nil {
		w.first = bytes.Clone(p)
	}
	return w.Conn.Write(p)
}

// records makes the server's records after its Finished, of the key that keyLog has
// (datatracker.ietf.org/doc/html/rfc5246#section-6.3, rfc5288#section-3).
func records(serverRandom []byte, keyLog string) func(kind byte, content []byte) []byte {
	fields := strings.Fields(keyLog) // CLIENT_RANDOM, it, the master secret
	clientRandom, _ := hex.DecodeString(fields[1])
	master, _ := hex.DecodeString(fields[2])
	sum := func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, master)
		h.Write(bytes.Join(parts, nil))
		return h.Sum(nil)
	}
	seed := bytes.Join([][]byte{[]byte("key expansion"), serverRandom, clientRandom}, nil)
	one := sum(seed)
	block := append(sum(one, seed), sum(sum(one), seed)...) // both keys, and both halves of nonces
	key, err := aes.NewCipher(block[16:32])
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(key)
	if err != nil {
		panic(err)
	}
	salt, number := block[36:40], uint64(0)
	return func(kind byte, content []byte) []byte {
		number++ // Finished was 0
		count := binary.BigEndian.AppendUint64(nil, number)
		about := binary.BigEndian.AppendUint16(append(bytes.Clone(count), kind, 3, 3), uint16(len(content)))
		sealed := aead.Seal(nil, append(bytes.Clone(salt), count...), content, about)
		record := binary.BigEndian.AppendUint16([]byte{kind, 3, 3}, uint16(len(count)+len(sealed)))
		return append(append(record, count...), sealed...)
	}
}
