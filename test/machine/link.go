//go:build linux

package machine

import "context"

// Disconnect cuts the machine off the network: frames from it and to it are lost. Commands still reach it.
func (m *Machine) Disconnect(ctx context.Context) error {
	return runIP(ctx, "link set "+m.config.tap()+" nomaster")
}

// Connect undoes Disconnect.
func (m *Machine) Connect(ctx context.Context) error {
	return runIP(ctx, "link set "+m.config.tap()+" master "+bridge)
}

// Disturb delays or loses what the machine sends on the network, in netem's words (tc-netem(8)), such as "delay 50ms" or
// "loss 2%". It replaces an earlier disturbance. Commands are not disturbed.
func (m *Machine) Disturb(ctx context.Context, netem string) error {
	_, err := m.Output(ctx, "tc qdisc replace dev vec0 root netem "+netem)
	return err
}

// Calm ends what Disturb began.
func (m *Machine) Calm(ctx context.Context) error {
	_, err := m.Output(ctx, "tc qdisc del dev vec0 root")
	return err
}
