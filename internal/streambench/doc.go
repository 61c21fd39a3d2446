// Package streambench measures the streams to Kafka, Redis and Elasticsearch
// against the least that any program has to do for the same work, in one run: a
// reader that decodes the WAL and produces a lean JSON without keeping any
// promise, and a loader that indexes the same rows in bulk. `make bench` runs it.
//
// Every contestant reads the same backlog of rows from a slot of its own. Their
// rounds are interleaved, so that a machine whose speed drifts treats all alike,
// and medians are reported.
package streambench
