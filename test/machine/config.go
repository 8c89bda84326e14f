//go:build linux

package machine

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
)

// defaultMemory is in MiB.
const defaultMemory = 256

// Config is what a machine is booted with.
type Config struct {
	// Name is the machine's host name, of lower-case letters, digits and hyphens.
	Name string
	// N is the last number of the machine's address, 10.9.0.N, from 1 to 253. One machine at a time has it.
	N int
	// Memory is in MiB; 0 means 256.
	Memory int
	// Disks are files of the test that the machine has as /dev/ubda, /dev/ubdb, and so on.
	Disks []string
	// Shares are directories of the test that the machine sees.
	Shares []Share
	// KernelArgs are additional words of the kernel's command line.
	KernelArgs []string
}

// Share is a directory of the test that a machine mounts.
type Share struct {
	// Host and Guest are absolute paths: of the directory and of where the machine has it.
	Host, Guest string
	// Writable lets the machine change the directory.
	Writable bool
}

func (c Config) validate() error {
	var errs []error
	if !regexp.MustCompile(`^[a-z0-9-]{1,32}$`).MatchString(c.Name) {
		errs = append(errs, fmt.Errorf("the name %q has other characters than lower-case letters, digits and hyphens, or more than 32", c.Name))
	}
	if c.N < 1 || c.N > 253 {
		errs = append(errs, fmt.Errorf("the number N is %d, not from 1 to 253", c.N))
	}
	if c.Memory != 0 && c.Memory < 64 {
		errs = append(errs, fmt.Errorf("%d MiB of memory are too few to boot", c.Memory))
	}
	if len(c.Disks) > 16 {
		errs = append(errs, fmt.Errorf("there are %d disks, more than 16", len(c.Disks)))
	}
	for _, share := range c.Shares {
		if !filepath.IsAbs(share.Host) || !filepath.IsAbs(share.Guest) {
			errs = append(errs, fmt.Errorf("the share of %q at %q is not of absolute paths", share.Host, share.Guest))
		}
	}
	return errors.Join(errs...)
}

// arguments are the kernel's.
func (c Config) arguments(n *Network) []string {
	memory := c.Memory
	if memory == 0 {
		memory = defaultMemory
	}
	args := []string{
		"mem=" + strconv.Itoa(memory) + "M", "initrd=" + n.initrd, "rdinit=/init",
		"con=null", "con0=null,fd:1", "panic=1",
		"umid=" + c.Name, "uml_dir=" + n.path("sockets"),
		c.vector(0, c.tap()), c.vector(1, c.controlTap()),
		"stoker.name=" + c.Name, "stoker.address=" + c.address(), "stoker.control=" + c.controlAddress(), "stoker.root=" + n.image.Root,
	}
	for i, disk := range c.Disks {
		args = append(args, fmt.Sprintf("ubd%d=%s", i, disk))
	}
	return append(args, c.KernelArgs...)
}

// vector configures a network interface. Without gro=1 large frames are dropped and connections hang.
func (c Config) vector(i int, tap string) string {
	return fmt.Sprintf("vec%d:transport=tap,ifname=%s,depth=64,gro=1,mac=%s", i, tap, c.hardwareAddress(i))
}

func (c Config) address() string        { return fmt.Sprintf("10.9.0.%d", c.N) }
func (c Config) controlAddress() string { return fmt.Sprintf("10.9.1.%d", c.N) }
func (c Config) tap() string            { return fmt.Sprintf("data%d", c.N) }
func (c Config) controlTap() string     { return fmt.Sprintf("control%d", c.N) }

// hardwareAddress stays when a machine boots again: other machines remember it.
func (c Config) hardwareAddress(i int) string { return fmt.Sprintf("02:00:0a:09:%02x:%02x", i, c.N) }
