// Package node starts a real node for tests: containerd with runc, a bridge for pods, and a kubelet that joins a control
// plane of package cluster. Pods of a chart then run in containers, from images that package image built.
//
// It runs inside of package sandbox, which gives it a network of its own and takes away whatever is left. There is no
// kube-proxy and no DNS: the Service "kubernetes" is reached by a forwarder at its address, and other Services are not.
// Images are imported from files and never pulled.
//
// The tests of this folder have the build tag e2e and are what `make e2e` runs. They need Linux, root, and programs
// that the Makefile builds or that Debian has packages of.
package node
