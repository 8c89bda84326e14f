package cluster

import (
	"fmt"
	"os"
	"path/filepath"
)

// Program is a process that a test runs beside the control plane, and that does not outlive the test: on Linux it ends
// with it, however that ends.
type Program struct {
	process *process
}

// StartProgram starts binary; its output goes to the end of logPath, and env is added to this process's environment.
func StartProgram(binary, logPath string, args, env []string) (*Program, error) {
	p, err := launch(binary, filepath.Base(binary), logPath, args, env)
	if err != nil {
		return nil, err
	}
	return &Program{process: p}, nil
}

// Ended says, with the end of its log, how the program ended; nil while it runs.
func (p *Program) Ended() error {
	select {
	case <-p.process.done:
		return p.process.exitError()
	default:
		return nil
	}
}

// Stop asks the program to end, kills it after ten seconds, and returns when it is gone. It is an error if it had ended
// by itself before. To be called once.
func (p *Program) Stop() error { return p.process.stop() }

// WriteKeys writes a certificate of the cluster's authority for these names of a server on loopback, its key and the
// authority's own certificate into dir, as ca.crt, tls.crt and tls.key: what a Service's Secret would hold. It is good
// for a client, too.
func (c *Cluster) WriteKeys(dir string, names ...string) error {
	pair, err := c.authority.server(names...)
	if err != nil {
		return fmt.Errorf("sign the certificate of %q: %w", names, err)
	}
	for name, content := range map[string][]byte{"ca.crt": c.ca, "tls.crt": pair.cert, "tls.key": pair.key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return fmt.Errorf("write the keys of %q: %w", names, err)
		}
	}
	return nil
}
