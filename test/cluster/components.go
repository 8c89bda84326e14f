package cluster

import (
	"path/filepath"
	"time"
)

// component is one process of the control plane and how to see that it works.
type component struct {
	name string
	port *reservedPort
	// readyPath answers 200 once the component does its work.
	readyPath string
	args      []string
}

// layout names the files of a cluster's directory.
type layout struct {
	dir string
}

func (l layout) path(elements ...string) string {
	return filepath.Join(append([]string{l.dir}, elements...)...)
}

func (l layout) pki(name string) string        { return l.path("pki", name) }
func (l layout) log(component string) string   { return l.path("logs", component+".log") }
func (l layout) kubeconfig(user string) string { return l.path("kubeconfigs", user+".yaml") }
func (l layout) etcdData() string              { return l.path("etcd") }

// Names of the users that the control plane's own roles are bound to.
const (
	controllerManagerUser = "system:kube-controller-manager"
	schedulerUser         = "system:kube-scheduler"
)

func etcd(l layout, port *reservedPort) component {
	return component{
		name: "etcd", port: port, readyPath: "/readyz",
		args: []string{
			"--name=etcd",
			"--data-dir=" + l.etcdData(),
			"--listen-client-urls=" + port.url(),
			"--advertise-client-urls=" + port.url(),
			// It has no peers and must listen for them all the same.
			"--listen-peer-urls=https://127.0.0.1:0",
			// Nothing here outlives the machine, and syncing costs seconds on slow disks.
			"--unsafe-no-fsync",
			"--client-cert-auth",
			"--trusted-ca-file=" + l.pki(caFile),
			"--cert-file=" + l.pki(serverCertFile),
			"--key-file=" + l.pki(serverKeyFile),
			"--peer-client-cert-auth",
			"--peer-trusted-ca-file=" + l.pki(caFile),
			"--peer-cert-file=" + l.pki(serverCertFile),
			"--peer-key-file=" + l.pki(serverKeyFile),
			"--log-level=warn",
		},
	}
}

func apiServer(l layout, port, etcdPort *reservedPort) component {
	return component{
		name: "kube-apiserver", port: port, readyPath: "/readyz",
		args: []string{
			"--bind-address=127.0.0.1",
			// Given because the default asks for a default route, which a machine without a network lacks.
			"--advertise-address=127.0.0.1",
			"--secure-port=" + port.String(),
			"--cert-dir=" + l.path("pki"),
			"--tls-cert-file=" + l.pki(serverCertFile),
			"--tls-private-key-file=" + l.pki(serverKeyFile),
			"--client-ca-file=" + l.pki(caFile),
			"--etcd-servers=" + etcdPort.url(),
			"--etcd-cafile=" + l.pki(caFile),
			"--etcd-certfile=" + l.pki(serverCertFile),
			"--etcd-keyfile=" + l.pki(serverKeyFile),
			// The aggregation layer, by which the API server passes users on. Components that let it vouch for users look
			// for these keys again and again, and log an error each time while there are none. The authority signs users
			// as well, so only one name may vouch.
			"--requestheader-client-ca-file=" + l.pki(caFile),
			"--requestheader-allowed-names=" + frontProxyUser,
			"--requestheader-username-headers=X-Remote-User",
			"--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + l.pki(proxyCertFile),
			"--proxy-client-key-file=" + l.pki(proxyKeyFile),
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--allow-privileged",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + l.pki(saPublicFile),
			"--service-account-signing-key-file=" + l.pki(saPrivateFile),
			"--service-cluster-ip-range=10.0.0.0/24",
			// The Endpoints of the Service "kubernetes" would say 127.0.0.1, which is not allowed; nothing here reads them.
			"--endpoint-reconciler-type=none",
		},
	}
}

func controllerManager(l layout, port *reservedPort, nodeGrace time.Duration) component {
	kubeconfig := l.kubeconfig(controllerManagerUser)
	return component{
		name: "kube-controller-manager", port: port, readyPath: "/healthz",
		args: []string{
			"--bind-address=127.0.0.1",
			"--secure-port=" + port.String(),
			"--tls-cert-file=" + l.pki(serverCertFile),
			"--tls-private-key-file=" + l.pki(serverKeyFile),
			"--kubeconfig=" + kubeconfig,
			"--authentication-kubeconfig=" + kubeconfig,
			"--authorization-kubeconfig=" + kubeconfig,
			"--root-ca-file=" + l.pki(caFile),
			"--service-account-private-key-file=" + l.pki(saPrivateFile),
			"--use-service-account-credentials",
			"--leader-elect=false",
			// By default it asks 20 times a second, and spends seconds of its start on accounts for its controllers.
			"--kube-api-qps=1000",
			"--kube-api-burst=1000",
			"--node-monitor-grace-period=" + nodeGrace.String(),
		},
	}
}

func scheduler(l layout, port *reservedPort) component {
	kubeconfig := l.kubeconfig(schedulerUser)
	return component{
		name: "kube-scheduler", port: port, readyPath: "/readyz",
		args: []string{
			"--bind-address=127.0.0.1",
			"--secure-port=" + port.String(),
			"--tls-cert-file=" + l.pki(serverCertFile),
			"--tls-private-key-file=" + l.pki(serverKeyFile),
			"--kubeconfig=" + kubeconfig,
			"--authentication-kubeconfig=" + kubeconfig,
			"--authorization-kubeconfig=" + kubeconfig,
			"--leader-elect=false",
			"--kube-api-qps=1000",
			"--kube-api-burst=1000",
		},
	}
}
