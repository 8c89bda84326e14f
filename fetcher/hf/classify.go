package hf

import (
	"errors"
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
	e := op.fail(fetcher.ErrRefused, answer{answered(resp, token), resp.StatusCode, code}, "")
	authenticated := token != ""
	if op.file == "" && code == "" && message == "" && isNoRoute(resp.StatusCode) {
		resp.Header.Set("X-Error-Message", "to "+resp.Request.URL.EscapedPath())
		e.Err = noRoute{answer{answered(resp, token), resp.StatusCode, ""}}
		e.Hint = "check the spelling, and that the endpoint is a Hub"
		return e
	}
	e.Hint = op.fileHint(resp.StatusCode, code, token)
	switch {
	case message == disabled, message == badToken && authenticated && resp.StatusCode == http.StatusUnauthorized: // below
	case e.Hint != "":
		return e
	}
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
	case message == disabled:
		e.Hint = "the Hub has disabled this repository; choose another"
	case resp.StatusCode == http.StatusUnauthorized && message == badToken:
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

// Messages of the Hub's that stand where it has no code.
const (
	disabled = "Access to this resource is disabled."
	badToken = "Invalid credentials in Authorization header"
)

// answer is, within an error, what the endpoint itself answered.
type answer struct {
	error

	status int
	code   string // the Hub's; "" if there is none
}

// Unwrap returns the words.
func (a answer) Unwrap() error { return a.error }

// fileHint is what to do about a file that the endpoint listed and does not give, with
// no code of the Hub's that would say why; "" for every other answer. Messages, and
// codes that are none of the Hub's, are what scanners write. The token is not to blame:
// it was good for the list.
func (op operation) fileHint(status int, code, token string) string {
	switch code {
	case "RevisionNotFound", "EntryNotFound", "GatedRepo", "RepoNotFound":
		return ""
	}
	if op.file == "" {
		return ""
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone, http.StatusUnavailableForLegalReasons:
	default:
		return ""
	}
	hint := "the mirror refuses this file, which it listed: ask whoever runs " + op.endpoint + " whether a rule or a scanner blocks it, or leave it out (--exclude, or exclude of a list entry)"
	if status == http.StatusUnauthorized && token == "" {
		hint += "; if it refuses every file, give a token in HF_TOKEN"
	}
	return hint
}

// storageRefuses is the refusal of a file whose address was refused twice, fresh from
// the endpoint each time: no signature expires so soon.
func (op operation) storageRefuses(err error) error {
	var e *fetcher.Error
	if !errors.As(err, &e) {
		return err
	}
	return op.fail(fetcher.ErrRefused, fmt.Errorf("twice in a row, %w", e.Err),
		op.fileHint(http.StatusForbidden, "", "")+"; if other files are refused, too, "+e.Hint)
}

// classifyCDN reads the answers of the host that has the bytes. It knows no
// tokens: a 403 is a signature that has expired. Where the endpoint passes requests on
// to a Hub, that one's codes say more.
func classifyCDN(op operation, resp *http.Response) error {
	cause := answered(resp, "")
	host, code := httpsource.Host(resp.Request.URL), resp.Header.Get("X-Error-Code")
	e := op.fail(fetcher.ErrTransient, cause, "try again later")
	switch {
	case code == "GatedRepo", resp.StatusCode == http.StatusUnauthorized:
		e.Kind, e.Err = fetcher.ErrRefused, fmt.Errorf("%s passes the request on, and %w", op.endpoint, cause)
		e.Hint = "a token goes to " + op.endpoint + " alone: give that mirror a token that may read " + op.repo + ", or make " + host + " the endpoint"
	case code == "RepoNotFound", code == "RevisionNotFound", code == "EntryNotFound":
		e.Kind, e.Err = fetcher.ErrRefused, fmt.Errorf("%s passes the request on, and %w", op.endpoint, cause)
		e.Hint = "make " + host + " the endpoint, or have " + op.endpoint + " list what that one has"
	case resp.StatusCode == http.StatusForbidden:
		e.Err = fmt.Errorf("%w: %w", errExpired, cause)
		e.Hint = "check this machine's clock, and that no firewall stands before " + host
	case resp.StatusCode == http.StatusTooManyRequests:
		e.Kind, e.RetryAfter = fetcher.ErrThrottled, retryAfter(resp.Header)
	case httpsource.Passing(resp.StatusCode):
		e.RetryAfter = retryAfter(resp.Header)
	default:
		e.Kind, e.Hint = fetcher.ErrRefused, host+" is where "+op.endpoint+" says the file is; ask whoever runs "+op.endpoint+", with the request id"
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
