package hf_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// The whole table of the Hub's failures.
func TestClassification(t *testing.T) {
	answer := func(status int, header ...string) fetchertest.Effect {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return fetchertest.Answer(status, h, "")
	}
	for _, c := range []struct {
		name   string
		effect fetchertest.Effect
		kind   error
		wait   time.Duration
		says   []string
	}{
		{"revision", answer(404, "X-Error-Code", "RevisionNotFound"), fetcher.ErrRefused, 0, []string{"RevisionNotFound", "branch"}},
		{"entry", answer(404, "X-Error-Code", "EntryNotFound"), fetcher.ErrRefused, 0, []string{"EntryNotFound"}},
		{"gated", answer(403, "X-Error-Code", "GatedRepo"), fetcher.ErrRefused, 0, []string{"ask for access", repoID}},
		{"repository", answer(404, "X-Error-Code", "RepoNotFound"), fetcher.ErrRefused, 0, []string{"spelling"}},
		{"disabled", answer(403, "X-Error-Message", "Access to this resource is disabled."), fetcher.ErrRefused, 0, []string{"disabled"}},
		{"unauthorized", answer(401), fetcher.ErrRefused, 0, []string{"spelling", "token"}},
		{"bad token", answer(401, "X-Error-Message", "Invalid credentials in Authorization header"), fetcher.ErrRefused, 0, []string{"revoked"}},
		{"forbidden", answer(403), fetcher.ErrRefused, 0, []string{"permission"}},
		{"timeout", answer(408), fetcher.ErrTransient, 0, nil},
		{"fault", answer(500), fetcher.ErrTransient, 0, nil},
		{"gateway", answer(502), fetcher.ErrTransient, 0, nil},
		{"unavailable", answer(503, "Retry-After", "7"), fetcher.ErrTransient, 7 * time.Second, nil},
		{"gateway timeout", answer(504), fetcher.ErrTransient, 0, nil},
		{"throttled", answer(429, "RateLimit", `"api";r=0;t=55`, "Retry-After", "3"), fetcher.ErrThrottled, 56 * time.Second, nil},
		{"throttled, something left", answer(429, "RateLimit", `"api";r=9;t=55`, "Retry-After", "3"), fetcher.ErrThrottled, 3 * time.Second, nil},
		{"throttled, silent", answer(429), fetcher.ErrThrottled, 0, nil},
		{"throttled until a day", answer(429, "Retry-After", "Fri, 31 Dec 2199 23:59:59 GMT"), fetcher.ErrThrottled, -1, nil},
		{"throttled for ever", answer(429, "Retry-After", "99999999"), fetcher.ErrThrottled, 99999999 * time.Second, nil},
		{"no JSON", fetchertest.Answer(200, nil, "<html>Please log in"), fetcher.ErrTransient, 0, []string{"proxy"}},
		{"no commit", fetchertest.Answer(200, nil, `{"sha": "../../etc"}`), fetcher.ErrTransient, 0, []string{"no commit"}},
		{"no bucket of the Hub", answer(400), fetcher.ErrRefused, 0, nil},
		{"repeats the token", answer(404, "X-Error-Message", "no access for "+token), fetcher.ErrRefused, 0, []string{"***"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub := fetchertest.StartHub(t, fetchertest.HubOptions{Tokens: []string{token}})
			push(t, hub, tiny())
			hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindInfo}, Effect: c.effect})
			_, err := newDriver(t, hub.URL(), token).List(t.Context(), source(""))
			var e *fetcher.Error
			if !errors.As(err, &e) || !errors.Is(err, c.kind) {
				t.Fatalf("error is %v, want one that is %q", err, c.kind)
			}
			if c.wait < 0 { // until a date in another century
				c.wait = max(e.RetryAfter, 100*365*24*time.Hour)
			}
			spread := time.Duration(0) // returns are
			if e.Quota.Host != "" {
				spread = min(c.wait, time.Hour)
			}
			if e.RetryAfter < c.wait || e.RetryAfter > c.wait+spread {
				t.Errorf("retry after %s, want %s", e.RetryAfter, c.wait)
			}
			if e.Hint == "" {
				t.Error("no hint")
			}
			says := append([]string{repoID}, c.says...)
			if !strings.HasPrefix(c.name, "no ") { // these are 200s
				says = append(says, "Root=1-")
			}
			for _, s := range says {
				if !strings.Contains(err.Error(), s) && c.name != "no bucket of the Hub" {
					t.Errorf("the error does not say %q: %v", s, err)
				}
			}
			if strings.Contains(fmt.Sprintf("%+v", err), token) {
				t.Error("the error shows the token")
			}
		})
	}
}

func TestAccess(t *testing.T) {
	for _, c := range []struct {
		name, token  string
		options      fetchertest.RepoOptions
		list, weight string // what the refusal says; empty: none
	}{
		{"open to all", "", fetchertest.RepoOptions{}, "", ""},
		{"private, no token", "", fetchertest.RepoOptions{Private: true}, "give a token", ""},
		{"private, other token", "hf_other", fetchertest.RepoOptions{Private: true}, "RepoNotFound", ""},
		{"private, right token", token, fetchertest.RepoOptions{Private: true, Tokens: []string{token}}, "", ""},
		{"wrong token", "hf_wrong", fetchertest.RepoOptions{}, "revoked", ""},
		{"gated, no token", "", fetchertest.RepoOptions{Gated: true}, "", "then give a token"},
		{"gated, other token", "hf_other", fetchertest.RepoOptions{Gated: true}, "", "ask for access"},
		{"gated, right token", token, fetchertest.RepoOptions{Gated: true, Tokens: []string{token}}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub := fetchertest.StartHub(t, fetchertest.HubOptions{Tokens: []string{"hf_other"}})
			commit := push(t, hub, tiny())
			hub.AddRepo(repoID, c.options)
			d := newDriver(t, hub.URL(), c.token)
			_, err := d.List(t.Context(), source(""))
			checkRefusal(t, err, c.list)
			if c.list != "" {
				return
			}
			f := fetcher.File{Path: weights, Size: int64(len(tiny()[weights]))}
			_, err = fetchertest.ReadFrom(t.Context(), d, fetcher.Object{Source: source(""), Revision: commit, File: f}, 0)
			checkRefusal(t, err, c.weight)
		})
	}
}

func checkRefusal(t *testing.T, err error, says string) {
	t.Helper()
	if says == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if !errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), says) {
		t.Errorf("error is %v, want a refusal that says %q", err, says)
	}
}

// Once the Hub says that nothing is left, asking again would prolong the
// limit: the driver refuses by itself, resolves and API calls apart.
func TestUsedUpQuotaIsNotAskedAgain(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{Quota: fetchertest.Quota{Resolves: 2, Window: time.Minute}})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, "config.json")
	for range 2 {
		if _, err := fetchertest.ReadFrom(t.Context(), d, obj, 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		_, err := fetchertest.ReadFrom(t.Context(), d, obj, 0)
		var e *fetcher.Error
		if !errors.As(err, &e) || !errors.Is(err, fetcher.ErrThrottled) || e.RetryAfter < 30*time.Second || e.RetryAfter > 2*61*time.Second {
			t.Fatalf("error is %v, want throttled for a minute or two", err)
		}
		if q := fetcher.QuotaOf(err); !q.Held || q.Host == "" || q.Requests != "file requests" || time.Until(q.Until) > 61*time.Second {
			t.Errorf("the quota is %+v", q)
		}
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve})); n != 2 {
		t.Errorf("%d resolves reached the Hub, want 2", n)
	}
	if _, err := d.List(t.Context(), source("")); err != nil {
		t.Errorf("the quota of resolves stops the list: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	hub := fetchertest.NewHub(fetchertest.HubOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	if err := hub.Listen(ctx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := hub.Serve(ctx); err != nil { // ends at once and frees the ports
		t.Fatal(err)
	}
	_, err := newDriver(t, hub.URL(), token).List(t.Context(), source(""))
	if !errors.Is(err, fetcher.ErrTransient) || !strings.Contains(err.Error(), strings.TrimPrefix(hub.URL(), "http://")) {
		t.Errorf("error is %v, want a passing one that names the host", err)
	}
}
