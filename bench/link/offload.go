//go:build linux

package link

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// offloadOff makes the kernel finish its packets before it hands them to the
// device of this namespace: checksums computed, and no larger than the MTU.
// Between two veths it would do neither.
func offloadOff(device string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("switch offloads off: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	for _, command := range []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO} {
		// struct ethtool_value and struct ifreq of the kernel.
		value := struct{ command, data uint32 }{command, 0}
		request := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:unix.IFNAMSIZ-1], device)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return fmt.Errorf("switch offload %#x of %s off: %w", command, device, errno)
		}
	}
	return nil
}
