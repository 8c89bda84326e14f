package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/stoker-project/stoker/fetcher"
)

// accessFlags are the settings of a source, as `access` of a list entry has them.
type accessFlags struct {
	addressing, caBundle                            string
	unsigned, requesterPays, insecure, etagIsDigest bool
	headerTimeout                                   time.Duration
	followLinks                                     []string
}

func (a *accessFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&a.addressing, "addressing", "auto", "name the bucket of an s3:// source in the `STYLE` path, virtual (before the server's name) or auto")
	flags.BoolVar(&a.unsigned, "unsigned", false, "ask a public bucket without credentials")
	flags.BoolVar(&a.requesterPays, "requester-pays", false, "accept that the credentials' account pays for what is read of a bucket")
	flags.BoolVar(&a.etagIsDigest, "etag-is-digest", true, "take ETags of an s3:// source that look like an MD5 for one; false for servers whose ETags are something else")
	flags.DurationVar(&a.headerTimeout, "header-timeout", 0, "wait this `DURATION`, 30s or more, for the first byte of an answer at the first try; later tries wait longer (default 30s)")
	flags.StringVar(&a.caBundle, "ca-bundle", "", "let the PEM certificates in `FILE` vouch for the server, too")
	flags.BoolVar(&a.insecure, "insecure", false, "take any TLS certificate; whoever is on the way can read the credentials and give other files")
	flags.StringArrayVar(&a.followLinks, "follow-links", nil, "let symlinks in a file:// directory end below `DIR`, too; may be repeated")
}

// access returns what the flags ask for, for a source of this scheme, which is ""
// where the source itself is wrong.
func (a *accessFlags) access(scheme string) (fetcher.Access, error) {
	out := fetcher.Access{
		Addressing: fetcher.Addressing(a.addressing), Unsigned: a.unsigned, RequesterPays: a.requesterPays,
		HeaderTimeout: a.headerTimeout, Insecure: a.insecure, OpaqueETags: !a.etagIsDigest,
	}
	var errs []error
	if err := out.Addressing.Check(); err != nil {
		errs = append(errs, fmt.Errorf("--%w", err))
	}
	if a.headerTimeout != 0 && a.headerTimeout < 30*time.Second {
		errs = append(errs, fmt.Errorf("--header-timeout %s is too short; write at least 30s", a.headerTimeout))
	}
	if a.unsigned && a.requesterPays {
		errs = append(errs, errors.New("--unsigned and --requester-pays exclude each other: without credentials nobody pays"))
	}
	absolute := func(flag, path string) string {
		abs, err := filepath.Abs(path)
		if path == "" {
			err = fmt.Errorf("--%s is empty; name a path", flag)
		}
		errs = append(errs, err)
		return abs
	}
	if a.caBundle != "" {
		out.CABundle = absolute("ca-bundle", a.caBundle)
	}
	for _, dir := range a.followLinks {
		out.FollowLinks = append(out.FollowLinks, absolute("follow-links", dir))
	}
	if scheme != "" {
		for _, s := range out.Misplaced(scheme) {
			errs = append(errs, fmt.Errorf("--%s: %w", flagOf(s.Name), s.Misplaced()))
		}
	}
	return out, errors.Join(errs...)
}

// flagOf is the flag for a setting: --follow-links for followLinks.
func flagOf(setting string) string {
	var b strings.Builder
	for _, r := range setting {
		if unicode.IsUpper(r) {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
