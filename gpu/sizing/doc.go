// Package sizing tells what a model needs on a GPU, and whether vLLM could start
// it there, from two things that stand at the front of a model directory: its
// config.json and the headers of its safetensors files. It reads no weights.
//
// It is pure: it reads through fs.FS or io.Reader, knows no GPU library, no
// cluster and no network, and the same input gives the same answer. The files
// come from strangers: sizes in them are checked before they are used, nothing
// is allocated by a number that a file states, and what is damaged is an error
// that names the file.
//
// # What is exact
//
// The bytes of the weights are exact where they are safetensors; so are the bytes
// per token of full, grouped and latent (MLA) attention. vLLM's peak of
// activations, CUDA graphs and the like are not knowable from files: they are a
// stated range beside the sum, and no part of [Need.Fits]. Anything else that is
// not exact sets Estimated and says why in Notes.
//
// # What vLLM tests
//
// vLLM claims total x gpu-memory-utilization of each GPU, refuses to start if
// less is free, and refuses if one request of the maximal length does not fit
// beside the weights. [Need.Fits] is that test, made before.
package sizing
