package serving

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/test/cluster"
)

// ErrNoPrometheus says that this machine has none.
var ErrNoPrometheus = errors.New("no prometheus on the PATH; Debian has it as prometheus")

// interval is how often Prometheus scrapes and evaluates here: the shortest that
// leaves two samples in any window of the queries.
const interval = "1s"

// Target is what is scraped, with the labels that the Prometheus operator would
// give it.
type Target struct {
	// Address is host and port, Path where the page is.
	Address, Path string
	Labels        map[string]string
}

// Prometheus is a running server.
type Prometheus struct {
	// URL is its address.
	URL string

	dir     string
	program *cluster.Program
}

// StartPrometheus starts one in dir, which must be empty or one of an earlier
// Prometheus, whose data it then goes on with. rules is a file of rules as
// PrometheusRules have them under spec; nil for none. It returns when the server
// answers.
func StartPrometheus(ctx context.Context, dir, address string, rules []byte) (*Prometheus, error) {
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		return nil, ErrNoPrometheus
	}
	if address == "" {
		if address, err = freeAddress(ctx); err != nil {
			return nil, fmt.Errorf("start Prometheus: %w", err)
		}
	}
	p := &Prometheus{URL: "http://" + address, dir: dir}
	if err := p.configure(rules); err != nil {
		return nil, fmt.Errorf("configure Prometheus: %w", err)
	}
	p.program, err = cluster.StartProgram(binary, filepath.Join(dir, "log"), []string{
		"--config.file=" + filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path=" + filepath.Join(dir, "data"),
		"--web.listen-address=" + address, "--log.level=warn",
	}, nil)
	if err != nil {
		return nil, err
	}
	err = cluster.WaitFor(ctx, "Prometheus to be ready", func(ctx context.Context) (bool, error) {
		_, err := p.get(ctx, "/-/ready", nil)
		return err == nil, errors.Join(err, p.program.Ended())
	})
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// freeAddress is one on loopback that nobody listens on now.
func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (p *Prometheus) configure(rules []byte) error {
	config := map[string]any{
		"global": map[string]any{"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
		"scrape_configs": []any{map[string]any{
			"job_name": "pods",
			"file_sd_configs": []any{map[string]any{
				"files": []string{filepath.Join(p.dir, "targets.json")}, "refresh_interval": interval,
			}},
		}},
	}
	if rules != nil {
		if err := os.WriteFile(filepath.Join(p.dir, "rules.yml"), rules, 0o600); err != nil {
			return err
		}
		config["rule_files"] = []string{filepath.Join(p.dir, "rules.yml")}
	}
	content, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.dir, "prometheus.yml"), content, 0o600)
}

// Scrape says what is scraped from now on; a target that is left out is gone.
func (p *Prometheus) Scrape(targets []Target) error {
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	groups := []group{}
	for _, t := range targets {
		labels := map[string]string{"__metrics_path__": t.Path}
		for k, v := range t.Labels {
			labels[k] = v
		}
		groups = append(groups, group{[]string{t.Address}, labels})
	}
	content, err := json.Marshal(groups)
	if err != nil {
		return fmt.Errorf("write Prometheus' targets: %w", err)
	}
	// Renamed into place: it is read at any moment.
	next := filepath.Join(p.dir, "targets.next")
	if err := os.WriteFile(next, content, 0o600); err != nil {
		return fmt.Errorf("write Prometheus' targets: %w", err)
	}
	if err := os.Rename(next, filepath.Join(p.dir, "targets.json")); err != nil {
		return fmt.Errorf("write Prometheus' targets: %w", err)
	}
	return nil
}

// Stop ends it; its data stays in its directory.
func (p *Prometheus) Stop() error { return p.program.Stop() }

// Sample is one series of an instant query.
type Sample struct {
	Labels map[string]string `json:"metric"`
	Value  []any             `json:"value"`
}

// Query runs an instant query.
func (p *Prometheus) Query(ctx context.Context, expr string) ([]Sample, error) {
	body, err := p.get(ctx, "/api/v1/query", url.Values{"query": {expr}})
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", expr, err)
	}
	var answer struct {
		Data struct {
			Result []Sample `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("query %s: %w", expr, err)
	}
	return answer.Data.Result, nil
}

// Rule is an alerting rule and how its last evaluation went.
type Rule struct {
	Name      string `json:"name"`
	Query     string `json:"query"`
	Health    string `json:"health"`
	LastError string `json:"lastError"`
	State     string `json:"state"`
	Alerts    []struct {
		State       string            `json:"state"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"alerts"`
}

// Rules are all of them.
func (p *Prometheus) Rules(ctx context.Context) ([]Rule, error) {
	body, err := p.get(ctx, "/api/v1/rules", nil)
	if err != nil {
		return nil, fmt.Errorf("ask Prometheus for its rules: %w", err)
	}
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []Rule `json:"rules"`
			} `json:"groups"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("ask Prometheus for its rules: %w", err)
	}
	var rules []Rule
	for _, g := range answer.Data.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules, nil
}

func (p *Prometheus) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", response.Status, body)
	}
	return body, nil
}
