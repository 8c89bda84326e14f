package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// startLimit bounds Start where its context has no deadline. On two idle cores it takes 5 s, on a busy machine in a
	// kernel of its own (one core, every page fault a system call of the host) minutes.
	startLimit = 6 * time.Minute
	// stopGrace is how long a component may take to end before it is killed. They take about a second.
	stopGrace = 10 * time.Second
	// startAttempts is how often Start tries with new ports after somebody else got one of them.
	startAttempts = 5
)

// Options say how to start a cluster. The zero value is a cluster in a temporary directory that Stop removes.
type Options struct {
	// Dir holds keys, kubeconfigs, logs and etcd's data. Empty: a new temporary directory. A directory that is given
	// is never removed, and etcd's data in it is replaced.
	Dir string
	// Keep leaves the temporary directory, with its logs, when the cluster is stopped.
	Keep bool
	// Binary is the control plane's executable. Empty: Binary finds or builds it.
	Binary string
	// NodeGrace is how long a Node may send no heartbeat (renew no Lease) before it turns Unknown. Nodes without a kubelet
	// send none, so the default is a day.
	NodeGrace time.Duration
	// Log gets a line for a person when there is something to wait for, which is a build. nil is silence.
	Log io.Writer
}

// Cluster is a running control plane. Its methods may be called from several goroutines at once.
type Cluster struct {
	// KubeconfigPath is a kubeconfig of an administrator (system:masters), good until Stop.
	KubeconfigPath string

	layout    layout
	authority *authority
	ca        []byte
	config    *rest.Config
	client    *kubernetes.Clientset
	// processes are in the order of their start.
	processes []*process
	unlock    func()
	nodeGrace time.Duration
	removeDir bool

	stopOnce sync.Once
	stopErr  error
}

// Start starts a control plane and returns when it answers, its controllers run and its scheduler has its caches. ctx
// bounds the starting (six minutes if it has no deadline) and not the life of the cluster, which ends with Stop, or
// with this process however that ends. The error of a component that does not come up carries the end of its log.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	binary := options.Binary
	if binary == "" {
		var err error
		if binary, err = Binary(ctx, options.Log); err != nil {
			return nil, err
		}
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startLimit)
		defer cancel()
	}
	l, unlock, err := newDir(options.Dir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{layout: l, unlock: unlock, nodeGrace: options.NodeGrace, removeDir: options.Dir == "" && !options.Keep}
	if options.Keep {
		if err := os.WriteFile(l.path(keptMarker), nil, 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("mark the cluster's directory as kept: %w", err), c.Stop())
		}
	}
	if c.nodeGrace == 0 {
		c.nodeGrace = 24 * time.Hour
	}
	if err := c.start(ctx, binary); err != nil {
		// What Stop says is about processes that the error already tells of.
		_ = c.Stop()
		return nil, fmt.Errorf("start the control plane: %w", err)
	}
	return c, nil
}

// start tries to bring the components up until no port was taken from them.
func (c *Cluster) start(ctx context.Context, binary string) error {
	keys, err := writePKI(c.layout.path("pki"))
	if err != nil {
		return err
	}
	c.authority, c.ca = keys.authority, keys.authority.pem
	for attempt := 1; ; attempt++ {
		err := c.startComponents(ctx, binary, keys)
		if err == nil || attempt == startAttempts || !errors.Is(err, errPortTaken) {
			return err
		}
		_ = c.stopProcesses()
	}
}

// startComponents starts everything once: each component's port is held by us until just before it starts.
func (c *Cluster) startComponents(ctx context.Context, binary string, keys *pki) error {
	var ports [4]*reservedPort
	for i := range ports {
		port, err := reservePort(ctx)
		if err != nil {
			return err
		}
		defer port.release()
		ports[i] = port
	}
	etcdPort, apiPort, controllersPort, schedulerPort := ports[0], ports[1], ports[2], ports[3]
	for _, stale := range []string{c.layout.etcdData(), c.layout.path("logs")} {
		if err := os.RemoveAll(stale); err != nil {
			return fmt.Errorf("clear the cluster's directory: %w", err)
		}
	}
	if err := os.Mkdir(c.layout.path("logs"), 0o700); err != nil {
		return fmt.Errorf("make the cluster's directory: %w", err)
	}
	if err := c.writeKubeconfigs(keys, apiPort.url()); err != nil {
		return err
	}
	probe, err := newProbe(keys)
	if err != nil {
		return err
	}
	// Each stage needs the one before; the components of the last one need only the API server.
	for _, stage := range [][]component{
		{etcd(c.layout, etcdPort)},
		{apiServer(c.layout, apiPort, etcdPort)},
		{controllerManager(c.layout, controllersPort, c.nodeGrace), scheduler(c.layout, schedulerPort)},
	} {
		var started []*process
		for _, component := range stage {
			component.port.release()
			p, err := startProcess(binary, component.name, c.layout.log(component.name), component.args)
			if err != nil {
				return err
			}
			c.processes = append(c.processes, p)
			started = append(started, p)
		}
		for i, component := range stage {
			if err := probe.waitReady(ctx, component, started[i]); err != nil {
				return err
			}
		}
	}
	return c.waitControllers(ctx)
}

// writeKubeconfigs writes the kubeconfigs of the administrator and of the components, and makes the client.
func (c *Cluster) writeKubeconfigs(keys *pki, server string) error {
	for _, user := range []string{controllerManagerUser, schedulerUser} {
		pair, err := keys.authority.client(user)
		if err != nil {
			return fmt.Errorf("sign the certificate of %s: %w", user, err)
		}
		if err := writeKubeconfig(c.layout.kubeconfig(user), server, c.ca, certUser(pair)); err != nil {
			return err
		}
	}
	c.KubeconfigPath = c.layout.kubeconfig(adminUser)
	if err := writeKubeconfig(c.KubeconfigPath, server, c.ca, certUser(keys.admin)); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.KubeconfigPath)
	if err != nil {
		return fmt.Errorf("read kubeconfig %s: %w", c.KubeconfigPath, err)
	}
	// The server is ours alone and has its own fairness; the default of 5 requests a second would slow every test.
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client of the cluster: %w", err)
	}
	c.config, c.client = config, client
	return nil
}

// waitControllers waits for what the controller-manager makes in a new cluster: no pod is admitted before it.
func (c *Cluster) waitControllers(ctx context.Context) error {
	return WaitFor(ctx, "the default service account", func(ctx context.Context) (bool, error) {
		_, err := c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
}

// RESTConfig returns a new configuration of an administrator's client, without a limit of requests.
func (c *Cluster) RESTConfig() *rest.Config {
	return rest.CopyConfig(c.config)
}

// Client returns an administrator's client, shared by everybody who asks.
func (c *Cluster) Client() kubernetes.Interface {
	return c.client
}

// Dir is the cluster's directory: logs/COMPONENT.log, kubeconfigs, keys, etcd's data.
func (c *Cluster) Dir() string {
	return c.layout.dir
}

// Stop ends every component, waits until they are gone and removes the directory unless it is to be kept. It returns
// an error that names the components that had died before, each with the end of its log. Calling it again does nothing
// and returns the same.
func (c *Cluster) Stop() error {
	c.stopOnce.Do(func() {
		c.stopErr = c.stopProcesses()
		if c.removeDir {
			if err := os.RemoveAll(c.layout.dir); err != nil {
				c.stopErr = errors.Join(c.stopErr, fmt.Errorf("remove the cluster's directory: %w", err))
			}
		}
		c.unlock()
	})
	return c.stopErr
}

// stopProcesses ends what uses etcd first, all at once, and etcd last, so that its data is closed properly.
func (c *Cluster) stopProcesses() error {
	if len(c.processes) == 0 {
		return nil
	}
	storage, users := c.processes[0], c.processes[1:]
	errs := make([]error, len(users))
	var stopping sync.WaitGroup
	for i, p := range users {
		stopping.Go(func() { errs[i] = p.stop() })
	}
	stopping.Wait()
	errs = append([]error{storage.stop()}, errs...)
	c.processes = nil
	if c.client != nil {
		closeIdleConnections(c.client)
	}
	return errors.Join(errs...)
}
