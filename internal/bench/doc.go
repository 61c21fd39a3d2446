// Package bench measures Capsaga beside what it replaces and beside what it is made
// of, on the systems that are running: the naive dual write, the same rows written
// straight to the four systems in batches, sagas in each of their forms, and a bare
// Temporal workflow. `capsaga bench` runs it.
//
// The contestants take turns in every repetition, and the order of the turns is
// reversed in every second one, so that a machine whose speed drifts treats all
// alike; medians are reported. After each turn every row is read back from all four
// systems and compared with what was written: a figure counts only for rows that
// arrived, else the run fails.
//
// RunScale measures batch sagas alone, along one line after the other: workers, rows
// of a batch, size of a row, and size of the table that is written to. What has been
// said of turns, medians and verification holds there, too; the rows by which the
// table grows are only counted.
//
// Before each turn the machine is left to settle, so that no turn pays for what the
// one before it left to be done: merges, checkpoints, flushes. A result tells of the
// turns before which that took too long.
//
// It works in an instance of its own (a database and a prefix that nobody else has),
// and removes it in the end, also after an error or an interrupt. A run that is
// killed outright leaves its instance behind; everything in it has a name that begins
// with "bench". Its workflows are in the Temporal namespace capsaga-bench, which all
// runs share and none removes; Temporal drops them one by one, a day after their end.
// It does not tune the systems and says nothing of a cluster: on one machine the
// contestants share the cores with the servers.
package bench
