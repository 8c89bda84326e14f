//go:build e2e && linux

package machine_test

import (
	"testing"

	"github.com/stoker-project/stoker/test/machine"
)

func TestBoot(t *testing.T) {
	m := boot(t, machine.Config{Name: "first", N: 1})
	t.Log(output(t, m, "uname -a; id; mount; ip -br a; free -m; ps ax -o pid,args | head -70; cat /proc/uptime"))
	t.Log(output(t, m, "dmesg | tail -50"))
}
