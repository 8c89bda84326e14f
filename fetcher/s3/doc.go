// Package s3 is the driver for Amazon S3 and servers that speak its protocol:
// s3://BUCKET[/PREFIX].
//
// A bucket has no revisions. One is made here: a digest over the sorted list of
// (path, size, ETag), and a transfer asks for exactly the ETag that was listed,
// so that an object which is replaced meanwhile is refused and named, never
// mixed. Where a server lists no ETags, as versitygw does of files that were put
// there by hand, size and time of the last change stand in, as for file://, and are
// looked at after each transfer as well; in answers the time has whole seconds, so a
// change within one goes unseen. Versions of a versioned bucket are not
// used: listing them needs a permission of its own, and the ETag pins as well.
//
// What vouches for an object is asked for one object at a time (HeadObject), of
// the chosen files only: see [Driver.Vouch]. Region, credentials and endpoint
// come from the AWS SDK's default chain, or from a folder with AWS's files.
//
// Other servers than Amazon's are asked as Amazon's is, and what one does not know is
// asked otherwise, once: ListObjects in place of ListObjectsV2, keys as they are,
// objects without their checksums or without If-Match, the bucket before the
// server's name. A textbook server gets no request more because of that.
//
// It is not for writing to buckets, and it does not restore archived objects.
package s3
