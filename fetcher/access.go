package fetcher

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Access is how one model's source is reached. The zero Access means the
// environment: each ecosystem's own variables and files.
type Access struct {
	// Endpoint replaces the source's own host: a Hub mirror, an S3-compatible
	// server. Empty: the ecosystem's default.
	Endpoint string
	// CredentialsDir is a mounted Secret with the keys HF_TOKEN, config and
	// credentials (AWS's files), key.json (Google). Read at every use, so that
	// a rotated Secret takes effect. Empty: the environment's credentials.
	CredentialsDir string
	// HeaderTimeout is how long a source over HTTP may take until the headers of an
	// answer, at the first try; later ones wait longer. 0: 30 s, or what the
	// variables of the source's own tools ask for.
	HeaderTimeout time.Duration
	// FollowLinks are directories, as absolute paths, in which the links of a
	// directory (file://) may end beside the directory itself.
	FollowLinks []string
	// Addressing is where an S3 server is told the bucket. Empty: AddressingAuto.
	Addressing Addressing
	// Unsigned asks a bucket without any credentials, as its public readers do.
	Unsigned bool
	// RequesterPays accepts that the account of the credentials pays for what is
	// read, where the bucket's owner demands that.
	RequesterPays bool
	// CABundle is a file of PEM certificates that may vouch for the server beside
	// the system's, as an absolute path. Empty: none.
	CABundle string
	// Insecure takes any TLS certificate: whoever is on the way can then read the
	// credentials, and give other files.
	Insecure bool
	// OpaqueETags says that the ETags of an S3 server are no MD5 of the content even
	// where they have the form of one.
	OpaqueETags bool
}

// Addressing is how the requests to an S3 server name their bucket.
type Addressing string

// Ways of addressing: as the first part of the path, which works wherever the
// server's name does; in front of the server's name, which Alibaba's, Tencent's and
// ByteDance's stores demand; or whichever the server takes.
const (
	AddressingAuto    Addressing = "auto"
	AddressingPath    Addressing = "path"
	AddressingVirtual Addressing = "virtual"
)

// Check reports an addressing that is none of the constants, nor "".
func (a Addressing) Check() error {
	switch a {
	case "", AddressingAuto, AddressingPath, AddressingVirtual:
		return nil
	}
	return fmt.Errorf("addressing %q is not known; write auto, path or virtual", string(a))
}

// Setting is one setting of an [Access], by its name in a model list's entry.
type Setting struct {
	Name string
	// Schemes are of the sources that have it.
	Schemes []string
}

// Misplaced is why the setting is wrong, less its name.
func (s Setting) Misplaced() error {
	return fmt.Errorf("only %s:// sources have it; leave it out", strings.Join(s.Schemes, ":// and "))
}

// Misplaced returns the settings that a source of this scheme does not have.
func (a Access) Misplaced(scheme string) []Setting {
	var out []Setting
	for _, s := range []struct {
		name    string
		given   bool
		schemes []string
	}{
		{"addressing", a.Addressing != "" && a.Addressing != AddressingAuto, []string{SchemeS3}},
		{"unsigned", a.Unsigned, []string{SchemeS3, SchemeGCS}},
		{"requesterPays", a.RequesterPays, []string{SchemeS3, SchemeGCS}},
		{"caBundle", a.CABundle != "", []string{SchemeHub, SchemeS3, SchemeGCS}},
		{"insecure", a.Insecure, []string{SchemeHub, SchemeS3, SchemeGCS}},
		{"etagIsDigest", a.OpaqueETags, []string{SchemeS3}},
		{"followLinks", len(a.FollowLinks) > 0, []string{SchemeFile}},
	} {
		if s.given && !slices.Contains(s.schemes, scheme) {
			out = append(out, Setting{s.name, s.schemes})
		}
	}
	return out
}
