// Package sinktest is the conformance suite of the sinks that hold rows by
// compare-and-set on the version. A sink that passes may be sent documents late,
// twice and in any order, by any number of workers, and ends with the newest.
package sinktest
