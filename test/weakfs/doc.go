// Package weakfs is a file system of which several machines have a mount each, as
// those of a network are: names, sizes and times are believed for a while after
// they were seen, locks of other mounts exclude nobody, and each mount may fail by
// itself. It tells what is changed through which mount, in order, and asks before
// what a test wants to judge happens.
//
// All mounts are served, through FUSE, by a process of their own ([Main]): one that
// serves a file system to itself may wait for itself.
//
// It is not: handles that outlast a rename by another mount. A folder that one
// mount renames is gone for the others, as soon as their caches have run out.
package weakfs
