// Package inject tests against a real API server that the chart's
// MutatingAdmissionPolicy and `stoker inject` add the same to pods of every
// shape, and that what comes of it is admitted, scheduled and owned as any pod
// is.
package inject
