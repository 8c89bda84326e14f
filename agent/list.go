package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// defaultRefresh is how often a moving revision is looked up again.
const defaultRefresh = time.Hour

// Model is one entry of the model list.
type Model struct {
	// Name is given or derived; unique in a list.
	Name   string
	Source fetcher.Source
	// Include, Also, Exclude and FileFormat choose the source's files; see
	// [fetcher.Choice].
	Include, Also, Exclude []string
	FileFormat             string
	// NodeSelector is what a node's labels must have; empty: every node.
	NodeSelector map[string]string
	// Priority: higher is pulled first and evicted last.
	Priority int
	// Refresh is how often a moving revision is looked up again.
	Refresh time.Duration
	// RAM says that its pages shall be in memory, as far as the budget goes.
	RAM bool
	// Credentials names a mounted Secret; empty: the environment's.
	Credentials string
	// Access is how the source is spoken to, less the folder of Credentials.
	Access fetcher.Access
	// Serving is how vLLM will run it; zero fields are vLLM's defaults.
	Serving sizing.Serving
}

// choice is which files of the source the entry is about.
func (m Model) choice() fetcher.Choice {
	return fetcher.Choice{Include: m.Include, Also: m.Also, Exclude: m.Exclude, FileFormat: m.FileFormat}
}

// transfer identifies what a pull of the entry would do: when it changes,
// earlier failures say nothing any more.
func (m Model) transfer() string {
	b, err := json.Marshal([]any{m.Source.String(), m.choice(), fetcher.SelectionVersion, m.Credentials, m.Access})
	if err != nil {
		return m.Source.String() // strings always encode
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Request is what the fetcher is asked for the model. credentialsDir holds one folder
// for each Secret that entries refer to.
func (m Model) Request(credentialsDir string) fetcher.Request {
	req := fetcher.Request{
		Name: m.Name, Source: m.Source, Include: m.Include, Also: m.Also, Exclude: m.Exclude, FileFormat: m.FileFormat, Access: m.Access,
	}
	if m.Credentials != "" {
		req.Access.CredentialsDir = filepath.Join(credentialsDir, m.Credentials)
	}
	return req
}

// selects says whether a node with these labels should hold the model.
func (m Model) selects(nodeLabels map[string]string) bool {
	for k, want := range m.NodeSelector {
		if have, ok := nodeLabels[k]; !ok || have != want {
			return false
		}
	}
	return true
}

// parseModels reads the model list and complains about every bad field of
// every entry.
func parseModels(v any, errs *[]error) []Model {
	list, ok := v.([]any)
	if !ok {
		*errs = append(*errs, fmt.Errorf("models: %s: write a list of models, each with a source", show(v)))
		return nil
	}
	models := make([]Model, 0, len(list))
	first := make(map[string]string, len(list)) // the first entry with a name
	for i, e := range list {
		path := fmt.Sprintf("models[%d]", i)
		if _, isMap := e.(map[string]any); !isMap {
			*errs = append(*errs, fmt.Errorf("%s: %s: write a mapping with at least a source", path, show(e)))
			continue
		}
		m := parseModel(asFields(path, e, errs))
		if m.Name == "" {
			continue // already complained about
		}
		entry := path
		if m.Source.Scheme != "" {
			entry += " (" + redact(m.Source.String()) + ")"
		}
		if other, taken := first[m.Name]; taken {
			*errs = append(*errs, fmt.Errorf("%s and %s: both are named %q; give one of them another name", other, entry, m.Name))
			continue
		}
		first[m.Name] = entry
		models = append(models, m)
	}
	return models
}

// parseModel reads one entry. Its name is empty if none could be told.
func parseModel(f *fields) Model {
	m := Model{
		Name:         f.str("name"),
		Source:       parseSource(f),
		FileFormat:   f.str("fileFormat"),
		Also:         f.strs("also"),
		Include:      f.strs("include"),
		Exclude:      f.strs("exclude"),
		NodeSelector: f.strMap("nodeSelector"),
		Priority:     int(f.integer("priority", 0, -1_000_000_000)),
		Refresh:      f.duration("refresh", defaultRefresh),
		RAM:          f.boolean("ram", false),
		Credentials:  f.str("credentials"),
	}
	m.Access.Endpoint = f.str("endpoint")
	if m.Name != "" {
		if err := fetcher.CheckName(m.Name); err != nil {
			f.mistake("name", err)
		}
	} else if m.Source.Scheme != "" {
		name, err := m.Source.DeriveName()
		if err != nil {
			f.mistake("name", err)
		}
		m.Name = name
	}
	for _, k := range slices.Sorted(maps.Keys(m.NodeSelector)) {
		for _, why := range validation.IsQualifiedName(k) {
			f.complain("nodeSelector", k, "not a label key: "+brief(why))
		}
		for _, why := range validation.IsValidLabelValue(m.NodeSelector[k]) {
			f.complain("nodeSelector."+k, m.NodeSelector[k], "not a label value: "+brief(why))
		}
	}
	if m.Credentials != "" {
		// It becomes a folder under the mounted Secrets.
		for _, why := range validation.IsDNS1123Subdomain(m.Credentials) {
			f.complain("credentials", m.Credentials, "write the name of a Secret that the chart mounts: "+brief(why))
		}
	}
	if err := fetcher.CheckFileFormat(m.FileFormat); err != nil {
		f.mistake("fileFormat", err)
	}
	if m.Access.Endpoint != "" {
		if err := checkEndpoint(m.Access.Endpoint); err != nil {
			f.complain("endpoint", m.Access.Endpoint, err.Error())
		}
	}
	parseAccess(f, m.Source.Scheme, &m.Access)
	m.Serving = parseServing(f)
	f.done()
	return m
}

// brief leaves the examples and the regular expression out of what
// Kubernetes' own validation says.
func brief(why string) string {
	why, _, _ = strings.Cut(why, " (e.g.")
	return why
}

func parseSource(f *fields) fetcher.Source {
	text := f.str("source")
	if text == "" {
		if v, given := f.take("source"); !given || v == "" {
			f.complain("source", v, "every model needs a source: hf://[ORG/]NAME[@REVISION], s3://BUCKET[/PREFIX], gs://BUCKET[/PREFIX] or file:///DIR")
		}
		return fetcher.Source{}
	}
	src, err := fetcher.ParseSource(text)
	if err != nil {
		f.mistake("source", err)
	}
	return src
}
