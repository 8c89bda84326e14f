package shared

import (
	"os"
	"testing"

	"github.com/stoker-project/stoker/test/ordeal"
	"github.com/stoker-project/stoker/test/weakfs"
)

func TestMain(m *testing.M) {
	if code, ran := weakfs.Main(); ran {
		os.Exit(code)
	}
	if code, ran := ordeal.RunInside(); ran {
		os.Exit(code)
	}
	os.Exit(m.Run())
}
