package s3

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// A file's version is the value of its ETag in quotes, whether the server lists it
// so, without quotes or as a weak one: servers differ, and one server's list and
// answers do. Where there is no ETag, it is the time of the last change.

// modified begins the version of an object without an ETag.
const modified = "modified "

// versionOf returns the version of a listed object, or "" if nothing tells one
// content from another.
func versionOf(o types.Object) string {
	if etag := quoted(o.ETag); etag != "" {
		return etag
	}
	if o.LastModified == nil || o.LastModified.IsZero() {
		return ""
	}
	return modified + o.LastModified.UTC().Format(time.RFC3339Nano)
}

// quoted writes an ETag in the one way that versions have, or returns "" if there is
// none.
func quoted(etag *string) string {
	value := strings.TrimSpace(aws.ToString(etag))
	value = strings.TrimPrefix(value, "W/")
	if inner, ok := strings.CutPrefix(value, `"`); ok {
		value = strings.TrimSuffix(inner, `"`)
	}
	if value == "" {
		return ""
	}
	return `"` + value + `"`
}

// isETag reports whether a version is an ETag.
func isETag(version string) bool { return strings.HasPrefix(version, `"`) }

// errNoValidator is an answer that does not tell which content it is of.
var errNoValidator = errors.New("so a change under the transfer would go unseen")

// sameVersion reports why an answer with these is of another content than was
// listed, or nil. Times in headers have whole seconds, rounded or cut.
func sameVersion(version string, etag *string, lastModified *time.Time) error {
	if isETag(version) {
		switch quoted(etag) {
		case version:
			return nil
		case "":
			return fmt.Errorf("answers without the ETag that it listed, %w", errNoValidator)
		}
		return errors.New("serves another ETag than it listed")
	}
	listed, err := time.Parse(time.RFC3339Nano, strings.TrimPrefix(version, modified))
	switch {
	case err != nil:
		return fmt.Errorf("has no version: %w", err)
	case lastModified == nil:
		return fmt.Errorf("answers without the time of the last change that it listed, %w", errNoValidator)
	case lastModified.Sub(listed).Abs() >= time.Second:
		return errors.New("serves another time of the last change than it listed")
	}
	return nil
}
