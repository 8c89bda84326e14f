//go:build e2e && linux

package machine_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/machine"
)

// serve boots an NFS server with an empty disk.
func serve(t *testing.T) *machine.Machine {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := machine.MakeDisk(t.Context(), disk, 256<<20); err != nil {
		t.Fatal(err)
	}
	m := boot(t, machine.Config{Name: "server", N: 1, Disks: []string{disk}})
	begin := time.Now()
	if err := m.ServeNFS(t.Context(), machine.Export{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("NFS served after %s", time.Since(begin).Round(time.Millisecond))
	return m
}

// client boots a machine that has the server's export at /mnt/nfs.
func client(t *testing.T, server *machine.Machine, n int, options string) *machine.Machine {
	t.Helper()
	m := boot(t, machine.Config{Name: fmt.Sprintf("client%d", n), N: n})
	begin := time.Now()
	if err := m.MountNFS(t.Context(), server, "/mnt/nfs", options); err != nil {
		t.Fatal(err)
	}
	t.Logf("mounted after %s", time.Since(begin).Round(time.Millisecond))
	return m
}

func TestNFS(t *testing.T) {
	server := serve(t)
	a, b := client(t, server, 2, ""), client(t, server, 3, "vers=4.1,nosharecache")
	output(t, a, "echo one > /mnt/nfs/file")
	if got := output(t, b, "cat /mnt/nfs/file"); got != "one\n" {
		t.Errorf("the other client reads %q", got)
	}
	if got := output(t, a, "grep nfs /proc/mounts"); !strings.Contains(got, "vers=4.2") {
		t.Errorf("the mount is %s", got)
	}
	if got := output(t, b, "grep nfs /proc/mounts"); !strings.Contains(got, "vers=4.1") {
		t.Errorf("the mount is %s", got)
	}
	if err := b.DropCaches(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Unmount(t.Context(), "/mnt/nfs"); err != nil {
		t.Fatal(err)
	}
	// The options of an export change under the clients.
	if err := server.Reexport(t.Context(), "ro"); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Run(t.Context(), "echo two > /mnt/nfs/file"); err != nil || !strings.Contains(got.Stderr, "Read-only") {
		t.Errorf("writing to a read-only export: %+v, %v", got, err)
	}
	if err := server.Reexport(t.Context(), "rw,root_squash"); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Run(t.Context(), "touch /mnt/nfs/other"); err != nil || !strings.Contains(got.Stderr, "Permission denied") {
		t.Errorf("writing as root with root_squash: %+v, %v", got, err)
	}
	if err := server.Unexport(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.DropCaches(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Run(t.Context(), "stat /mnt/nfs/file"); err != nil || got.ExitCode == 0 {
		t.Errorf("a file of an export that has ended: %+v, %v", got, err)
	}
	if err := server.Reexport(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	output(t, a, "cat /mnt/nfs/file")
	if err := a.Unmount(t.Context(), "/mnt/nfs"); err != nil {
		t.Fatal(err)
	}
	if err := server.StopNFS(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.ServeNFS(t.Context(), machine.Export{Options: "ro"}); err != nil {
		t.Fatal(err)
	}
	if err := a.MountNFS(t.Context(), server, "/mnt/nfs", "vers=4.2,ro"); err != nil {
		t.Fatal(err)
	}
	if got := output(t, a, "cat /mnt/nfs/file"); got != "one\n" {
		t.Errorf("after the server was stopped and started: %q", got)
	}
}

// lockScript holds a lock and reports when it has it. It ends when the lock's file is unusable.
const lockScript = `exec 9>>/mnt/nfs/lock; flock -x 9; echo locked; while :; do echo tick >&9 || exit 9; read -t .1 <> <(:); done`

func TestServerPowerCut(t *testing.T) {
	server := serve(t)
	a, b := client(t, server, 2, ""), client(t, server, 3, "")
	output(t, a, "echo synced > /mnt/nfs/file; sync /mnt/nfs/file")
	holder := start(t, a, lockScript)
	waitOutput(t, holder, "locked")

	for _, forget := range []bool{false, true} {
		begin := time.Now()
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := server.ServeNFS(t.Context(), machine.Export{ForgetClients: forget}); err != nil {
			t.Fatal(err)
		}
		t.Logf("killed and served again after %s", time.Since(begin).Round(time.Millisecond))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		got, err := b.Output(ctx, "cat /mnt/nfs/file; echo two > /mnt/nfs/second; flock -n -x /mnt/nfs/lock echo free || echo held")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("used by a client after %s", time.Since(begin).Round(time.Millisecond))
		want := "synced\nheld\n"
		if forget {
			want = "synced\nfree\n"
		}
		if got != want {
			t.Errorf("clients forgotten %t: the other client sees %q, want %q", forget, got, want)
		}
		select {
		case <-holder.Done():
			t.Logf("clients forgotten %t: the holder ended: %+v", forget, holder.Result())
		default:
		}
	}
	holder.Close()
}

func TestSoftMount(t *testing.T) {
	server := serve(t)
	a := client(t, server, 2, "soft,timeo=10,retrans=1")
	output(t, a, "echo one > /mnt/nfs/file")
	if err := server.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	got, err := a.Run(t.Context(), "sync; echo two > /mnt/nfs/other")
	if err != nil || got.ExitCode == 0 {
		t.Errorf("writing while the server is away: %+v, %v", got, err)
	}
	t.Logf("after %s: %s", time.Since(begin).Round(time.Millisecond), got.Output)
	if err := server.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server to be reached again", func() bool {
		got, err := a.Run(t.Context(), "cat /mnt/nfs/file")
		return err == nil && got.Output == "one\n"
	})
}
