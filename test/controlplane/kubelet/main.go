// Command kubelet is upstream's kubelet, unchanged, at the release of the control plane beside it, for the tests on a
// real node. It is an executable of its own because only those tests need it, and because it runs on Linux alone.
package main

import (
	"context"
	"os"
	_ "time/tzdata" // as upstream's; the machine may have no zone files

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics on /metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // build info on /metrics
	"k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	os.Exit(cli.Run(app.NewKubeletCommand(context.Background())))
}
