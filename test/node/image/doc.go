// Package image builds Stoker's image from the repository's own Dockerfile, without a registry and without an engine:
// buildah runs the Dockerfile's steps in a chroot. It says what came out (sizes, files, user), so that limits can be
// held against it.
//
// The Dockerfile's base images come from registries by default. For machines that reach none, BuildBases makes stand-ins
// from Debian's packages: the builder's has the compiler that the real one has, and the final one the packages that the
// real one is made of, so both have the real ones' glibc. Go itself and its modules are this machine's own, mounted for
// the time of the build.
//
// It needs Linux, root, buildah and, for the bases, debootstrap and Debian's archive. It is not for publishing images.
package image
