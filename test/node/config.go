//go:build linux

package node

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Paths in the node's mount namespace.
const (
	socket     = "/run/containerd.sock"
	kubeletDir = "/var/lib/kubelet"
)

// containerdConfig: what lasts lies below dir, the rest in the node's own /run; an own pause image; no plugins of others;
// and no lowering of scores for the out-of-memory killer, which a machine without CAP_SYS_RESOURCE refuses.
func (n *Node) containerdConfig() string {
	return fmt.Sprintf(`version = 3
root = %[1]q
state = "/run/containerd"
disabled_plugins = ['io.containerd.nri.v1.nri']
[grpc]
  address = %[2]q
[plugins.'io.containerd.internal.v1.opt']
  path = %[3]q
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %[4]q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni', '/opt/cni/bin']
  conf_dir = %[5]q
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
`, n.path("containerd"), socket, n.path("opt"), n.options.PauseImage, n.path("cni"))
}

// network is the configuration of the pods' bridge.
func (n *Node) network() any {
	return map[string]any{
		"cniVersion": "1.0.0", "name": n.options.Name,
		"plugins": []any{map[string]any{
			"type": "bridge", "bridge": n.options.Bridge, "isGateway": true, "hairpinMode": true,
			"ipam": map[string]any{
				"type": "host-local", "dataDir": n.path("cni-addresses"),
				"ranges": [][]any{{map[string]any{"subnet": n.options.PodSubnet}}},
				"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
			},
		}},
	}
}

// kubeletConfig: cgroups of version 1 or 2 without systemd, below the sandbox's; no image is ever thrown away, and
// only a disk or a memory that is really full evicts pods.
func (n *Node) kubeletConfig() any {
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": HostAddress, "port": n.options.Port, "healthzPort": 0, "readOnlyPort": 0,
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": false},
			"x509": map[string]any{"clientCAFile": n.options.Cluster.CAPath()},
		},
		"authorization":            map[string]any{"mode": "AlwaysAllow"},
		"containerRuntimeEndpoint": "unix://" + socket,
		"cgroupDriver":             "cgroupfs", "cgroupRoot": n.options.CGroup, "failCgroupV1": false, "failSwapOn": false,
		"podLogsDir": n.path("pod-logs"), "resolvConf": n.path("resolv.conf"),
		"evictionHard": map[string]any{"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
		// How long pressure is told after it has ended: five minutes by default, which nobody wants to wait for either.
		"evictionPressureTransitionPeriod": "5s",
		"imageGCHighThresholdPercent":      100, "imageGCLowThresholdPercent": 99,
		// How soon a changed ConfigMap or Secret is in a running pod: a minute by default, which nobody wants to wait for.
		"syncFrequency": "2s", "configMapAndSecretChangeDetectionStrategy": "Watch",
		"nodeStatusUpdateFrequency": "2s",
	}
	if n.memoryFloor != "" {
		// A soft threshold, because one that counts as reserved may not be more than there is.
		config["evictionSoft"] = map[string]any{"memory.available": n.memoryFloor}
		config["evictionSoftGracePeriod"] = map[string]any{"memory.available": "1s"}
	}
	return config
}

// writeConfigs writes what containerd and the kubelet read.
func (n *Node) writeConfigs() error {
	for _, dir := range []string{"cni", "pod-logs", "kubelet", "certificates", "opt"} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			return err
		}
	}
	network, err := json.Marshal(n.network())
	if err != nil {
		return err
	}
	kubelet, err := json.Marshal(n.kubeletConfig())
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"containerd.toml": []byte(n.containerdConfig()), filepath.Join("cni", "10-bridge.conflist"): network,
		"kubelet.yaml": kubelet, "resolv.conf": nil,
	} {
		if err := os.WriteFile(n.path(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) path(elements ...string) string {
	return filepath.Join(append([]string{n.options.Dir}, elements...)...)
}
