package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of the image.
const (
	// MaxBinary is how large the executable may be, in bytes.
	MaxBinary int64 = 60 << 20
	// MaxCompressed is how large the image's layers may be as a registry stores them, in bytes.
	MaxCompressed int64 = 90 << 20
)

// binary is the path of the image's one program.
const binary = "usr/local/bin/stoker"

// mountPoints are where pods have volumes: a file there would keep a container from starting.
func mountPoints() []string { return []string{"models", "stoker"} }

// Check holds an image against what is promised of it: its sizes, no program in it but stoker, nothing in the way of
// volumes, and a user who is not root.
func (c *Contents) Check() error {
	var errs []error
	if size := c.BinarySize(); size == 0 || size > MaxBinary {
		errs = append(errs, fmt.Errorf("/%s has %d bytes; it must be there and have at most %d", binary, size, MaxBinary))
	}
	if c.Compressed > MaxCompressed {
		errs = append(errs, fmt.Errorf("the layers have %d bytes; they may have %d", c.Compressed, MaxCompressed))
	}
	if programs := c.Programs(); !slices.Equal(programs, []string{binary}) {
		errs = append(errs, fmt.Errorf("the programs are %q; only /%s should be there", programs, binary))
	}
	for _, path := range mountPoints() {
		if _, found := c.Files[path]; found {
			errs = append(errs, fmt.Errorf("/%s is a file; pods mount a volume there", path))
		}
	}
	if uid, _, _ := strings.Cut(c.User, ":"); uid == "" || uid == "0" || uid == "root" {
		errs = append(errs, fmt.Errorf("the user is %q; the image is root by default", c.User))
	}
	if !slices.Equal(c.Entrypoint, []string{"/" + binary}) {
		errs = append(errs, fmt.Errorf("the entrypoint is %q", c.Entrypoint))
	}
	return errors.Join(errs...)
}

// BinarySize is the size of the executable in bytes, 0 if it is missing.
func (c *Contents) BinarySize() int64 { return c.Files[binary].Size }
