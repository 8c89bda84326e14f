package cluster

import "path/filepath"

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
