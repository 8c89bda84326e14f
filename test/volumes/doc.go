// Package volumes tests the store on file systems that lack something: the real
// binary works in directories that the kernel mounts from a FUSE server here,
// which hands every call to a directory below except those that it refuses.
package volumes
