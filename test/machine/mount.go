//go:build linux

package machine

import (
	"context"
	"fmt"
)

// DefaultMountOptions are the ones of a pod's volume that nobody configured: version 4.2, and calls that wait for the
// server for ever.
const DefaultMountOptions = "vers=4.2,hard"

// MountNFS mounts what another machine exports at target, which it makes. Options are nfs(5)'s, such as
// "vers=4.1,soft,timeo=10,retrans=1,nosharecache"; "" means DefaultMountOptions.
func (m *Machine) MountNFS(ctx context.Context, server *Machine, target, options string) error {
	if options == "" {
		options = DefaultMountOptions
	}
	script := fmt.Sprintf("mkdir -p %[1]s && mount -t nfs4 -o %[2]s %[3]s:/ %[1]s", quote(target), quote(options), server.Address())
	if _, err := m.Output(ctx, script); err != nil {
		return fmt.Errorf("mount from %s: %w", server.Name(), err)
	}
	return nil
}

// Unmount unmounts target.
func (m *Machine) Unmount(ctx context.Context, target string) error {
	_, err := m.Output(ctx, "umount "+quote(target))
	return err
}

// DropCaches writes dirty pages back and drops every page, name and inode that the machine's kernel need not keep, so
// that the next read asks the server.
func (m *Machine) DropCaches(ctx context.Context) error {
	_, err := m.Output(ctx, "sync && echo 3 > /proc/sys/vm/drop_caches")
	return err
}
