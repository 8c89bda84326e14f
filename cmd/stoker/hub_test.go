package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// scriptToken opens what is closed in the scripts' Hub.
const scriptToken = "hf_opensthedoor"

// scriptHub is one script's Hub stand-in.
type scriptHub struct {
	*fetchertest.Hub
	stop func() error
}

// hubKey finds the Hub of a script.
type hubKey struct{}

// startHub serves a Hub with these repositories until the script ends, and
// names it in HF_ENDPOINT:
//
//	org/Tiny      a model of a third of a MB; its revision is always the same
//	org/gated     files for scriptToken only
//	org/private   for scriptToken only
//	org/hostile   gives a file name that leads out of the store
//	org/gguf      weights in a format that vLLM takes by name only
//	org/empty     no files
func startHub(env *testscript.Env) error {
	h := fetchertest.NewHub(fetchertest.HubOptions{Tokens: []string{"hf_nobodyslist"}})
	ctx, cancel := context.WithCancel(context.Background())
	if err := h.Listen(ctx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		cancel()
		return err
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx) }()
	hub := &scriptHub{Hub: h, stop: func() error {
		cancel()
		err := <-served
		served <- nil // a second stop finds it ended
		return err
	}}
	env.Defer(func() { _ = hub.stop() })
	env.Values[hubKey{}] = hub
	env.Setenv("HF_ENDPOINT", h.URL())
	return hub.fill(ctx)
}

func (h *scriptHub) fill(ctx context.Context) error {
	open := fetchertest.RepoOptions{Tokens: []string{scriptToken}}
	gated, private := open, open
	gated.Gated, private.Private = true, true
	h.AddRepo("org/gated", gated)
	h.AddRepo("org/private", private)
	trees := map[string]fetchertest.Tree{
		"org/hostile": {"../../escaped.json": fetchertest.Bytes([]byte("{}")), "config.json": fetchertest.Bytes([]byte("{}"))},
		"org/gguf":    {"weights-q4.gguf": fetchertest.Bytes([]byte("GGUF4")), "weights-q8.gguf": fetchertest.Bytes([]byte("GGUF8"))},
		"org/empty":   {},
	}
	for i, id := range []string{"org/Tiny", "org/gated", "org/private"} {
		tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: uint64(i)})
		if err != nil {
			return err
		}
		trees[id] = tree
	}
	var errs []error
	for id, tree := range trees {
		_, err := h.Push(ctx, id, "main", tree)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hubCommand drives the script's Hub:
//
//	hub push ORG/NAME MB           a model of about so many MB
//	hub rate BYTES                 bytes per second of all answers
//	hub down                       stop serving
//	hub status KIND CODE           answer all requests of a kind with CODE
//	hub ratelimit KIND SECONDS     answer them with 429 and a reset
//	hub corrupt FILE               invert the first byte of a file (or of *.suffix)
//	hub asked COUNT                so many requests came since the last "hub asked"
//	hub leaks                      a token went to the CDN: with !, none did
func hubCommand(ts *testscript.TestScript, neg bool, args []string) {
	h, ok := ts.Value(hubKey{}).(*scriptHub)
	if !ok || len(args) == 0 {
		ts.Fatalf("usage: hub COMMAND ARG...")
	}
	arg := func(i int) string {
		if len(args) <= i {
			ts.Fatalf("hub %s: an argument is missing", args[0])
		}
		return args[i]
	}
	number := func(i int) int {
		n, err := strconv.Atoi(arg(i))
		ts.Check(err)
		return n
	}
	switch args[0] {
	case "push":
		tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(99, int64(number(2))<<20, 3))
		ts.Check(err)
		_, err = h.Push(context.Background(), arg(1), "main", tree)
		ts.Check(err)
	case "rate":
		h.SetBytesPerSecond(int64(number(1)))
	case "down":
		ts.Check(h.stop())
	case "status":
		h.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.Kind(arg(1))}, Effect: fetchertest.Status(number(2))})
	case "ratelimit":
		h.Inject(fetchertest.Fault{
			Match:  fetchertest.Match{Kind: fetchertest.Kind(arg(1))},
			Effect: fetchertest.RateLimited("api", time.Duration(number(2))*time.Second),
		})
	case "corrupt":
		h.Inject(fetchertest.Fault{Match: fetchertest.Match{Method: http.MethodGet, File: arg(1)}, Effect: fetchertest.WrongByte(0)})
	case "asked":
		if got := len(h.Requests(fetchertest.Match{})); got != number(1) {
			ts.Fatalf("the Hub was asked %d times, want %d", got, number(1))
		}
		h.ResetLog()
	case "leaks":
		if leaks := h.Leaks(); (len(leaks) > 0) == neg {
			ts.Fatalf("requests to the CDN with a token: %v", fmt.Sprint(leaks))
		}
	default:
		ts.Fatalf("unknown hub command %q", args[0])
	}
}
