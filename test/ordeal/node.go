package ordeal

import "strings"

// Keys on the Node, as users know them.
const (
	WarmPrefix = "warm.stoker.dev/"
	RevPrefix  = "rev.stoker.dev/"
	Annotation = "stoker.dev/status"
	RevLength  = 12
)

// Promises are the revisions that a Node's labels call warm, by model.
func Promises(labels map[string]string) map[string]string {
	out := map[string]string{}
	for key, tier := range labels {
		if name, ok := strings.CutPrefix(key, WarmPrefix); ok && tier != "" {
			out[name] = labels[RevPrefix+name]
		}
	}
	return out
}
