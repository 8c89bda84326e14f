package s3

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// Vouch implements [fetcher.Voucher]: a checksum of the whole object that S3
// stores with it, the first there is of sha256, crc64nvme (what new objects have
// by default), crc32c, crc32 and md5, or the ETag where that is an MD5. A
// composite checksum, over those of parts, cannot be held against the bytes. A server
// that knows no HEAD, or answers it without saying which version it is of, states
// nothing: there is only the ETag that it listed.
func (d *Driver) Vouch(ctx context.Context, obj fetcher.Object) (fetcher.Digest, error) {
	f := obj.File
	op := httpsource.Operation{Verb: "look up the checksum of", Origin: f.Path + " of " + obj.Source.String()}
	if err := d.check(ctx, op, obj, 0, 0); err != nil {
		return "", err
	}
	bucket, _ := httpsource.Bucket(obj.Source)
	c, err := d.client(ctx, op, bucket)
	if err != nil {
		return "", err
	}
	listed := &s3.HeadObjectOutput{}
	if isETag(f.Version) {
		listed.ETag = &f.Version
	}
	if c.noHead.Load() {
		return d.vouched(bucket, listed), nil
	}
	out, err := c.stated(ctx, op, obj)
	switch {
	case knowsNoHead(err):
		c.noHead.Store(true)
		return d.vouched(bucket, listed), nil
	case errors.Is(err, errNoValidator):
		return d.vouched(bucket, listed), nil
	case err != nil:
		return "", err
	}
	return d.vouched(bucket, out), nil
}

// stated returns what the server states of exactly this version of an object.
func (c *client) stated(ctx context.Context, op httpsource.Operation, obj fetcher.Object) (*s3.HeadObjectOutput, error) {
	f := obj.File
	bucket, prefix := httpsource.Bucket(obj.Source)
	out, err := c.head(ctx, &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String(prefix + f.Path), RequestPayer: c.payer}, f.Version)
	if err != nil {
		if a, ok := asAnswer(err); ok && (a.status == http.StatusMethodNotAllowed || a.status == http.StatusNotImplemented) {
			return nil, &noHead{c.classify(ctx, op, err)}
		}
		return nil, c.classify(ctx, op, err)
	}
	host, _ := answerer(out.ResultMetadata)
	if err := sameVersion(f.Version, out.ETag, out.LastModified); err != nil {
		return nil, otherVersion(op, fmt.Errorf("%s %w", host, err))
	}
	if size := aws.ToInt64(out.ContentLength); !isETag(f.Version) && out.ContentLength != nil && size != f.Size {
		return nil, changed(op, fmt.Errorf("%s states %d bytes, %d were listed", host, size, f.Size))
	}
	return out, nil
}

// noHead is the refusal of a server that seems to know no HEAD.
type noHead struct{ error }

func (n *noHead) Unwrap() error { return n.error }

func knowsNoHead(err error) bool {
	var no *noHead
	return errors.As(err, &no)
}

// head asks for an object's head, on the condition that it is this version, and for
// its checksums. A server that does not know either question is asked without the one,
// the other and both.
func (c *client) head(ctx context.Context, in *s3.HeadObjectInput, version string) (*s3.HeadObjectOutput, error) {
	conditional, checksums, unknown := isETag(version) && !c.noIfMatch.Load(), !c.noChecksums.Load(), false
	for {
		in.IfMatch, in.ChecksumMode = nil, ""
		if conditional {
			in.IfMatch = aws.String(version)
		}
		if checksums {
			in.ChecksumMode = types.ChecksumModeEnabled
		}
		out, err := ask(c, *in.Bucket, func(o func(*s3.Options)) (*s3.HeadObjectOutput, error) { return c.HeadObject(ctx, in, o) })
		switch {
		case err == nil:
			if unknown { // a 400 may have been of this request
				c.noChecksums.Store(true)
			}
			if !conditional && quoted(out.ETag) == version {
				c.noIfMatch.Store(true)
			}
			return out, nil
		case conditional && unmet(err):
			conditional = false
		case checksums && refusesQuestion(err):
			a, _ := asAnswer(err)
			checksums, unknown = false, a.status == http.StatusNotImplemented
		case conditional && refusesQuestion(err):
			conditional, checksums, unknown = false, !c.noChecksums.Load(), false
		default:
			return nil, err
		}
	}
}

// vouched chooses of what an object's head states.
func (d *Driver) vouched(bucket string, out *s3.HeadObjectOutput) fetcher.Digest {
	if out.ChecksumType != types.ChecksumTypeComposite {
		for _, stated := range []struct {
			algorithm string
			value     *string
		}{
			{fetcher.SHA256, out.ChecksumSHA256},
			{fetcher.CRC64NVME, out.ChecksumCRC64NVME},
			{fetcher.CRC32C, out.ChecksumCRC32C},
			{fetcher.CRC32, out.ChecksumCRC32},
			{fetcher.MD5, out.ChecksumMD5},
		} {
			raw, err := base64.StdEncoding.DecodeString(aws.ToString(stated.value))
			if err != nil || len(raw) == 0 {
				continue // a composite one of an old server ends in -PARTS, which is no base64
			}
			if digest := fetcher.NewDigest(stated.algorithm, hex.EncodeToString(raw)); digest.Check() == nil {
				return digest
			}
		}
	}
	if d.access.OpaqueETags {
		return ""
	}
	return md5OfETag(bucket, out)
}

// md5OfETag returns the MD5 that an ETag is: of objects uploaded in one piece
// that are not encrypted with a key of the customer's or of KMS, and not in a
// directory bucket, whose ETags are random
// (docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html).
func md5OfETag(bucket string, out *s3.HeadObjectOutput) fetcher.Digest {
	plain := out.ServerSideEncryption == "" || out.ServerSideEncryption == types.ServerSideEncryptionAes256
	if !plain || out.SSECustomerAlgorithm != nil || strings.HasSuffix(bucket, "--x-s3") || strings.HasSuffix(bucket, "--xa-s3") {
		return ""
	}
	digest := fetcher.NewDigest(fetcher.MD5, strings.Trim(quoted(out.ETag), `"`))
	if digest.Check() != nil {
		return "" // PARTS stand behind a dash
	}
	return digest
}
