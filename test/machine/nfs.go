//go:build linux

package machine

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
)

const (
	// diskDir is where an NFS server has its disk.
	diskDir = "/srv/disk"
	// ExportDir is the exported directory on the server. Clients mount it as the root.
	ExportDir = diskDir + "/export"
	// leaseSeconds is how long a server keeps the locks of a client that is not heard of, and for how long after a
	// start it takes locks back only.
	leaseSeconds = 10
	// DefaultExportOptions lets root write.
	DefaultExportOptions = "rw,no_root_squash"
	// exporter is the command that exports directories.
	exporter = "exportfs" //nolint:misspell // its name
)

// MakeDisk writes a file with an empty ext4 of size bytes, without a reserve for root.
func MakeDisk(ctx context.Context, path string, size int64) error {
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-m", "0", "-t", "ext4", path, strconv.FormatInt(size>>10, 10)+"k")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make a disk: %w: %s", err, out)
	}
	return nil
}

// Export is what an NFS server exports.
type Export struct {
	// Device holds an ext4, such as one that MakeDisk wrote; "" means /dev/ubda.
	Device string
	// Options are those of exports(5); "" means DefaultExportOptions.
	Options string
	// ForgetClients removes what the server wrote down of its clients, so that they cannot take their locks back after
	// a restart.
	ForgetClients bool
}

// ServeNFS makes the machine an NFS server, of versions 4.1 and 4.2, which exports ExportDir to every machine. Its record
// of clients is kept on the disk, so that they can take their locks back after Restart and another ServeNFS. The lease
// and the grace period are 10 s; where no client has anything to take back, the grace period ends at once.
func (m *Machine) ServeNFS(ctx context.Context, export Export) error {
	device, options := export.Device, export.Options
	if device == "" {
		device = "/dev/ubda"
	}
	forget := ""
	if export.ForgetClients {
		forget = "rm -rf " + diskDir + "/state"
	}
	script := fmt.Sprintf(`set -e
mkdir -p %[1]s
mount -t ext4 %[2]s %[1]s
mkdir -p %[3]s
%[4]s
[ -d %[1]s/state ] || { cp -a /var/lib/nfs %[1]s/state.new; mv %[1]s/state.new %[1]s/state; }
mount --bind %[1]s/state /var/lib/nfs
mkdir -p /run/rpc_pipefs /var/lib/nfs/nfsdcld
# Without Debian's manage-gids: the groups of a call are those that the client says.
printf '[general]\npipefs-directory=/run/rpc_pipefs\n' > /etc/nfs.conf
modprobe nfsd
mountpoint -q /run/rpc_pipefs || mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
echo %[5]d > /proc/fs/nfsd/nfsv4leasetime
echo %[5]d > /proc/fs/nfsd/nfsv4gracetime
nfsdcld
`, diskDir, quote(device), ExportDir, forget, leaseSeconds)
	if _, err := m.Output(ctx, script); err != nil {
		return fmt.Errorf("start the NFS server: %w", err)
	}
	if err := m.Reexport(ctx, options); err != nil {
		return err
	}
	if _, err := m.Output(ctx, "set -e; rpc.mountd -N 2 -N 3; rpc.nfsd -N 3 -N 4.0 -V 4.1 -V 4.2 4"); err != nil {
		return fmt.Errorf("start the NFS server: %w", err)
	}
	return nil
}

// Reexport replaces the export's options, those of exports(5); "" means DefaultExportOptions. Clients notice at their next call.
func (m *Machine) Reexport(ctx context.Context, options string) error {
	if options == "" {
		options = DefaultExportOptions
	}
	options += ",sync,fsid=0,no_subtree_check"
	script := fmt.Sprintf("%[1]s -i -o %[2]s %[3]s && %[1]s -f", exporter, quote(options), quote(Subnet+":"+ExportDir))
	if _, err := m.Output(ctx, script); err != nil {
		return fmt.Errorf("export a directory: %w", err)
	}
	return nil
}

// Unexport ends the export while the server goes on: clients get ESTALE.
func (m *Machine) Unexport(ctx context.Context) error {
	script := fmt.Sprintf("%[1]s -u %[2]s && %[1]s -f", exporter, quote(Subnet+":"+ExportDir))
	if _, err := m.Output(ctx, script); err != nil {
		return fmt.Errorf("end an export: %w", err)
	}
	return nil
}

// StopNFS stops the server in order and unmounts its disk.
func (m *Machine) StopNFS(ctx context.Context) error {
	script := `set -e
rpc.nfsd 0
` + exporter + ` -ua
pkill -x rpc.mountd
pkill -x nfsdcld
for i in $(seq 200); do pgrep -x 'rpc.mountd|nfsdcld' >/dev/null || break; read -t .05 <> <(:) || true; done
umount /var/lib/nfs ` + diskDir
	if _, err := m.Output(ctx, script); err != nil {
		return fmt.Errorf("stop the NFS server: %w", err)
	}
	return nil
}

// EndGrace ends the server's grace period, after which clients cannot take their locks back.
func (m *Machine) EndGrace(ctx context.Context) error {
	_, err := m.Output(ctx, "echo Y > /proc/fs/nfsd/v4_end_grace")
	return err
}
