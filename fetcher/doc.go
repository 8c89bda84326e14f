// Package fetcher moves model bytes: from a source (a Hub repository, a bucket,
// a directory) to a verified, published directory in a store.
//
// It owns the parts that every source shares: references, which files of a
// model are wanted, the transfer engine with its retries and journal, digests,
// and the order in which a model becomes visible. What differs between sources
// lives in one driver each (fetcher/hf, fetcher/file, ...), handed in by the
// binary as a map by scheme. What the bytes look like on disk lives in
// fetcher/store.
//
// It is not for: Kubernetes, GPUs, or deciding which models a node should hold.
package fetcher
