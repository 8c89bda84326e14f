package hf

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// classify says what kind of failure an answer is. own tells the endpoint from
// the hosts that it redirects to. Codes decide; text only where the Hub has no
// code for it.
func classify(op operation, resp *http.Response, own bool, token string) error {
	if !own {
		return classifyCDN(op, resp)
	}
	code, message := resp.Header.Get("X-Error-Code"), resp.Header.Get("X-Error-Message")
	e := op.fail(fetcher.ErrRefused, answered(resp, token), "")
	authenticated := token != ""
	switch {
	case code == "RevisionNotFound":
		e.Hint = "name a branch, tag or commit that the repository has"
	case code == "EntryNotFound":
		e.Hint = "the file is not in this revision; list the source again"
	case code == "GatedRepo" && authenticated:
		e.Hint = "ask for access on the page of " + op.repo + ", with the account that the token belongs to"
	case code == "GatedRepo":
		e.Hint = "ask for access on the page of " + op.repo + ", then give a token of that account in HF_TOKEN"
	case code == "RepoNotFound" && authenticated:
		e.Hint = "check the spelling, and that the token may read a private repository"
	case message == "Access to this resource is disabled.":
		e.Hint = "the Hub has disabled this repository; choose another"
	case resp.StatusCode == http.StatusUnauthorized && message == "Invalid credentials in Authorization header":
		e.Hint = "the token is wrong or was revoked; replace it"
	case code == "RepoNotFound" || resp.StatusCode == http.StatusUnauthorized:
		e.Hint = missingHint(authenticated)
	case resp.StatusCode == http.StatusTooManyRequests:
		e.Kind, e.RetryAfter, e.Hint = fetcher.ErrThrottled, retryAfter(resp.Header), throttledHint(token)
	case httpsource.Passing(resp.StatusCode):
		e.Kind, e.RetryAfter, e.Hint = fetcher.ErrTransient, retryAfter(resp.Header), "try again later"
	case resp.StatusCode == http.StatusForbidden && authenticated:
		e.Hint = "give the token permission to read this repository"
	case resp.StatusCode == http.StatusForbidden:
		e.Hint = "give a token in HF_TOKEN that may read this repository"
	case resp.StatusCode == http.StatusNotFound:
		e.Hint = "check the spelling, and that the endpoint is a Hub"
	default:
		e.Hint = "check the source and the endpoint"
	}
	return e
}

// classifyCDN reads the answers of the host that has the bytes. It knows no
// tokens: a 403 is a signature that has expired.
func classifyCDN(op operation, resp *http.Response) error {
	cause := answered(resp, "")
	e := op.fail(fetcher.ErrTransient, cause, "try again later")
	switch {
	case resp.StatusCode == http.StatusForbidden:
		e.Err = fmt.Errorf("%w: %w", errExpired, cause)
		e.Hint = "check this machine's clock, and that no firewall stands before " + httpsource.Host(resp.Request.URL)
	case resp.StatusCode == http.StatusTooManyRequests:
		e.Kind, e.RetryAfter = fetcher.ErrThrottled, retryAfter(resp.Header)
	case httpsource.Passing(resp.StatusCode):
		e.RetryAfter = retryAfter(resp.Header)
	default:
		e.Kind, e.Hint = fetcher.ErrRefused, "the Hub names a file that its storage does not give; report it with the request id"
	}
	return e
}

func missingHint(authenticated bool) string {
	if authenticated {
		return "check the spelling, and that the token may read this repository"
	}
	return "check the spelling; if the repository is private or gated, give a token in HF_TOKEN"
}

func throttledHint(token string) string {
	if token == "" {
		return "wait; with a token in HF_TOKEN the Hub allows more"
	}
	return "wait"
}

// answered words an answer: who, status, code, message, request id.
func answered(resp *http.Response, token string) error {
	var id string
	for _, name := range []string{"X-Request-Id", "X-Amz-Cf-Id"} { // the Hub's, and CloudFront's
		if id = httpsource.ID(plain(resp.Header.Get(name), token)); id != "" {
			break
		}
	}
	code, message := plain(resp.Header.Get("X-Error-Code"), token), plain(resp.Header.Get("X-Error-Message"), token)
	return httpsource.Answered(httpsource.Host(resp.Request.URL), resp.StatusCode, code, message, id)
}

// plain makes a server's words fit to be shown: one line, not long, without
// the token, should the server repeat it.
func plain(s, token string) string {
	s = httpsource.Plain(s)
	if token != "" {
		s = strings.ReplaceAll(s, token, "***")
	}
	return s
}
