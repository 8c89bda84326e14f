// Package fetchertest holds what tests, the benchmark and the demo share: the
// conformance suite that every driver of package fetcher must pass
// ([TestDriver]), and a stand-in for the Hugging Face Hub ([Hub]) with models
// that are generated as they are read ([GenerateModel]).
//
// The Hub stand-in speaks the part of the Hub's protocol that downloads use,
// as huggingface_hub 1.29 and npm's @huggingface/hub use it: model info, the
// paginated tree, and resolve, with large files redirected to a second host by
// a signed URL that expires. It keeps a log of every request, and breaks in
// the ways that are asked of it ([Fault]).
//
// It is not for serving people: it knows no TLS, no uploads, no Xet, and its
// signatures protect nothing.
package fetchertest
