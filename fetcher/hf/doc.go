// Package hf is the driver for the Hugging Face Hub and its mirrors: it lists
// the files of a commit and streams ranges of them, over plain HTTPS. It speaks the
// protocol that huggingface_hub 1.29 uses (model info, paginated tree, resolve
// with a redirect to a signed URL of a CDN).
//
// Each question to the Hub counts against a rate limit, so the signed URL of a
// file serves all of its ranges, until the CDN refuses it.
//
// It sends the token to the endpoint's own scheme, host and port and nowhere
// else, follows redirects by hand for that, and puts neither a token nor a
// signed URL into an error.
//
// It is not for uploads, datasets, Xet's own protocol, or for retrying:
// package fetcher does that.
package hf
