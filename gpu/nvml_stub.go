//go:build !(cgo && linux)

package gpu

import (
	"context"
	"fmt"
)

// newNVML stands in where NVML cannot be opened at all.
func newNVML() backend { return noNVML{} }

// newNVMLInChild: another process of this program could not open it either.
func newNVMLInChild(Command) backend { return noNVML{} }

type noNVML struct{}

func (noNVML) open() error {
	return fmt.Errorf("this binary was built without cgo or not for Linux, so it cannot open NVML: %w", ErrNoDriver)
}

func (noNVML) devices(context.Context) ([]Device, error) { return nil, ErrNoDriver }
func (noNVML) close() error                              { return nil }
