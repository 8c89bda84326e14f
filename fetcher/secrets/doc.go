// Package secrets keeps credentials out of texts: logs, errors, events,
// annotations, status files.
//
// A [Set] holds the values of every secret that the process has read, whoever read
// it, and hides them wherever a text repeats them, as they are or encoded. It also
// hides what looks like a secret that nobody registered, such as a token that an
// operator wrote into the wrong field. Texts must pass through [Set.Scrub] before
// they are cut: half a secret is not found any more.
//
// It is not for deciding which texts of a remote side are shown at all; see
// httpsource for that.
package secrets
