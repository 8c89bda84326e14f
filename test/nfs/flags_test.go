//go:build e2e && linux

package nfs_test

import "flag"

var (
	seedFlag = flag.Uint64("seed", 0, "seed of the fence's moments and of the walk; 0 takes a new one and prints it")
	// What a client has seen of a file holds for a second.
	mountFlag       = flag.String("mount", "vers=4.2,hard,actimeo=1", "mount options of the agents' machines")
	leasesFlag      = flag.Bool("delegations", true, "let the file server give delegations of files")
	delegationsFlag = flag.Bool("directory-delegations", false, "let the agents' machines have delegations of directories")
	roundsFlag      = flag.Int("rounds", 1, "rounds of what the fence's test does at a random moment")
	stepsFlag       = flag.Int("steps", 10, "steps of the walk")
)
