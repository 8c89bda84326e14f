// Package httpsource has what drivers of sources over HTTP share: a transport
// for bulk, a body that ends without an error only after all of its bytes, the
// check of a range's answer, how a server's words and waits are taken, and how
// the objects of a bucket are files of a revision.
//
// It is not an HTTP client: how a source is asked, and what its answers mean,
// is each driver's own.
package httpsource
