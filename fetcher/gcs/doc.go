// Package gcs is the driver for Google Cloud Storage: gs://BUCKET[/PREFIX].
//
// A bucket has no revisions. One is made here: a digest over the sorted list of
// (path, size, generation), and a transfer asks for exactly the generation that
// was listed, so that an object which is replaced meanwhile is refused and named,
// never mixed (or read to its end, where the bucket keeps old generations). The
// list states a CRC32C of each object's whole content, which vouches for it.
//
// Objects are read over JSON and HTTP/1.1 by Google's own client. Credentials are
// the application default ones, or the file key.json in a folder; without any,
// public buckets can be read. STORAGE_EMULATOR_HOST means what it means there.
//
// It is not for writing to buckets.
package gcs
