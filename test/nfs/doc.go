// Package nfs tests stores on a real NFS server, with real clients: each is a machine of package machine with a kernel of
// its own. What a store promises on such a volume is compared with the bytes that another client reads from the server.
//
// The tests have the build tag e2e and are what `make e2e-nfs` runs. They need Linux on x86-64 and root.
package nfs
