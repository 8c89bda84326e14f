// Package hf is the driver for the Hugging Face Hub and its mirrors: it lists
// the files of a commit and streams one of them from an offset, over plain
// HTTPS. It speaks the protocol that huggingface_hub 1.29 uses (model info,
// paginated tree, resolve with a redirect to a signed URL of a CDN).
//
// It sends the token to the endpoint's own scheme, host and port and nowhere
// else, follows redirects by hand for that, and puts neither a token nor a
// signed URL into an error.
//
// It is not for uploads, datasets, Xet's own protocol, or for retrying:
// package fetcher does that.
package hf
