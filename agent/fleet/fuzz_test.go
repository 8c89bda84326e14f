package fleet

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/printable"
)

// FuzzNode: whatever a Node's annotation, labels and field managers say, the tables have
// an end, no line is anybody else's, and the JSON can be read.
func FuzzNode(f *testing.F) {
	evil := warmModel("llama", 1)
	evil.Reason, evil.State = "\x1b[2J\nNODE", "\u202e"
	for _, s := range []agent.NodeStatus{
		word(time.Minute, warmModel("llama", 2)), word(time.Minute, coldModel("llama", agent.StatePulling)), word(-time.Hour, evil), {Version: 1}, {Version: 9, Omitted: -1},
	} {
		text, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "disk", `{"f:metadata":{"f:labels":{"f:warm.stoker.dev/llama":{}}}}`, "kubectl")
	}
	f.Add("", "", "", "")
	f.Add("{", "\x1b", "[]", "\n")
	f.Add(`{"version":2,"models":[{"name":"llama","state":{}},7,{"name":"llama"}],"gpus":[]}`, "", `{"f:metadata":null}`, "")
	f.Add(`{"version":1,"time":"9999-12-31T23:59:59Z","models":[{"name":"llama","bytes":-1,"totalBytes":9223372036854775807,"doneBytes":-9223372036854775808,"rate":-1,"secondsLeft":9223372036854775807,"fits":-9223372036854775808,"loadSeconds":-1,"pods":-1,"next":"0001-01-01T00:00:00Z","need":{"gpus":-1,"bytesPerGpu":18446744073709551615,"share":1e308}}],"gpus":{"known":true,"count":-1,"freeGib":9223372036854775807,"leaks":[{"since":9223372036854775807}]},"store":{"known":true,"bytes":-1,"readRate":9223372036854775807}}`, "ram", "", "")
	f.Add(`{"version":1,"time":"0000-01-01T00:00:00+14:00","models":[]}`, "", "", "")
	f.Add(`{"version":1,"time":"9999-12-31T23:59:59-14:00","models":[]}`, "", "", "")
	f.Fuzz(func(t *testing.T, annotation, label, owners, manager string) {
		n := bare("gpu-1")
		n.Annotations[agent.StatusAnnotation] = annotation
		n.Labels[agent.WarmPrefix+"llama"] = label
		n.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: manager, FieldsV1: metav1.NewFieldsV1(owners)}}
		fleet := Read([]corev1.Node{n}, now)
		text := render(t, fleet, View{}) + render(t, fleet, View{Wide: true, All: true})
		if e, err := fleet.Explain("gpu-1", "llama"); err == nil {
			var b strings.Builder
			if err := e.Write(&b); err != nil {
				t.Fatal(err)
			}
			text += b.String()
			if strings.ContainsAny(e.Run, ";|&$`<>(){}'\"\\\n") && strings.HasPrefix(e.Run, "stoker fit") {
				t.Errorf("it gives %q to be run", e.Run)
			}
		}
		for line := range strings.Lines(text) {
			if line = strings.TrimSuffix(line, "\n"); printable.Line(line) != line || strings.HasPrefix(line, "FAKE") {
				t.Fatalf("%q prints %q", annotation, line)
			}
		}
		if lines := strings.Count(render(t, fleet, View{}), "\n"); lines > 4*mostRows {
			t.Errorf("%d lines", lines)
		}
		if _, err := json.Marshal(fleet); err != nil {
			t.Errorf("%q: %v", annotation, err)
		}
		if _, err := fleet.Only("gpu-1", ""); err != nil {
			t.Errorf("%q: %v", annotation, err)
		}
	})
}
