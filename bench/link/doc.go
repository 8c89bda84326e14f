// Package link joins two network namespaces by a link that is slow, far and
// lossy, so that programs can be measured over it. Linux only, and only for
// root; it needs iproute2.
//
// The link is two veth pairs and this process between them: it reads every
// frame from one, and gives it to the other later, or not at all. So the delay
// and the losses are those of packets, which TCP at both ends sees as it would
// on a real path (a delaying proxy would answer at once and hide them), and no
// queueing discipline is needed that a kernel may lack. Good for some hundred
// Mbit/s.
//
// Namespaces have no names: the kernel removes them and all that is in them when
// this process ends, however it ends.
package link
