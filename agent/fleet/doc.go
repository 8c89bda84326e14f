// Package fleet reads what the agents of a cluster have said on their Nodes,
// and tells it to people: as a table (stoker status) and as an answer to why
// one node is not warm for one model, and what to do (stoker explain).
//
// [List], [ListOne] and [ListVolumes] are its only parts that speak to the API server, and
// only list. The rest are functions of values: [Read] makes a [Fleet] of Node objects,
// [Fleet.Write] and [Fleet.Explain] make text of it.
//
// What stands on a Node may come from an agent of another version, from
// somebody else, or from one that was taken over. Nothing of it is trusted to
// agree with itself: a word that does not parse, labels without a word, a word
// without labels, and labels that contradict it are told as what they are; texts
// lose what could steer a terminal.
//
// It is not for: writing anything, pods, events, metrics, or the truth behind a
// label, which only the agent on its node can know.
package fleet
