// Package file is the driver for directories: file:///DIR, a disk or a mounted
// volume that already holds a model.
//
// A directory vouches for nothing and can change at any time. Its revision is
// a digest over the sorted (path, size, modification time) list, and a file
// whose size or modification time is no longer the listed one is refused. A
// change that leaves both as they were goes unnoticed here; package fetcher
// hashes what it reads.
//
// It is not for watching directories, or for reading archives.
package file
