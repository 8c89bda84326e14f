// Command controlplane is a Kubernetes control plane in one executable, for tests and the demo.
//
// The first argument picks one of etcd, kube-apiserver, kube-controller-manager and kube-scheduler; the rest is
// that component's own command line. The code is upstream's, unchanged, linked together because four separate
// executables would hold the same packages four times over. It is not for production and knows nothing of Stoker.
//
// Only the chosen component's command is ever built: each of them takes the process's signal handlers, and a second
// one in the same process panics.
package main

import (
	"fmt"
	"io"
	"os"
	_ "time/tzdata" // CronJobs name time zones, and the machine may have no zone files

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics on /metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // build info on /metrics
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// exitWithStdin names the environment variable that ties this process to its parent: when it is set, the end of
// standard input ends the process. The parent holds the other end of that pipe, so however it dies, this follows.
// Linux has a signal for that as well; other systems have only this.
const exitWithStdin = "CONTROLPLANE_EXIT_WITH_STDIN"

func main() {
	os.Exit(run(os.Args))
}

func run(args []string) int {
	if len(args) < 2 {
		return usage(args)
	}
	component := args[1]
	// Cobra commands read os.Args themselves, and name themselves by its first element.
	os.Args = append([]string{component}, args[2:]...)

	if os.Getenv(exitWithStdin) != "" {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
	}

	var command *cobra.Command
	switch component {
	case "etcd":
		etcdmain.Main(os.Args)
		return 0
	case "kube-apiserver":
		command = apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		command = controllermanager.NewControllerManagerCommand()
	case "kube-scheduler":
		command = scheduler.NewSchedulerCommand()
	default:
		return usage(args)
	}
	return cli.Run(command)
}

func usage(args []string) int {
	fmt.Fprintf(os.Stderr, "usage: %s etcd|kube-apiserver|kube-controller-manager|kube-scheduler [FLAG]...\n", args[0])
	return 2
}
