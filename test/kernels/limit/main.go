// The program limit prints the memory limit in bytes that package headroom reads: the tests run it in cgroups as
// containers and services have them.
package main

import (
	"fmt"
	"os"

	"github.com/stoker-project/stoker/fetcher/headroom"
)

func main() {
	state, err := headroom.Read()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(state.Limit)
}
