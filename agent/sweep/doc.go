// Package sweep takes back what agents said on Nodes, where no agent is left
// that could: [Sweeper] for nodes that have had no ready agent pod for a while,
// [Unlabel] for all nodes at once, when people or an uninstallation ask.
//
// Labels outlive their agent on purpose, so that restarts and upgrades drop no
// true label. The price is that a node whose agent is gone for good says what
// nobody checks any more; that is what this package ends. It can only remove:
// every write is a patch that sets keys to null, and an agent that returns
// writes what it knows again.
//
// Withdrawing a true label costs a cold start, a false one that stays costs
// wrong placements; a mistake about all nodes at once costs the most. So a
// removal waits for a live look at the node, is refused by the API server if
// anything wrote to the Node since, and happens at a bounded pace.
//
// Beside that, a Sweeper lets a claim that was made again bind its volume again,
// which Kubernetes holds for the deleted one, and reports volumes and claims of the
// chart that are missing.
//
// It is not for: anything on a node with a ready agent pod, keys that agents do
// not write, taints, and files on nodes.
package sweep
