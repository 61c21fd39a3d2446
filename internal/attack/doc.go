// Package attack holds the version attack: a test that tries to break the rule
// by which every change of a row has one version.
//
// Sixteen connections write to the same twenty keys, as sagas and as plain SQL,
// on tables with immediate and deferred triggers and with cascades. An observer
// of its own, which shares no code with the stream, reads the WAL beside them.
// Then the rules are checked:
//
//   - per key, versions rise from transaction to transaction in commit order, in
//     the one order of the sagas' versions and of the commit positions, and that
//     order is the order in which the rows' contents followed each other;
//   - what a saga reports (version, owned keys, rows, etags) is what the stream
//     shows of it;
//   - a row read with a version never takes a sink back.
//
// Each simpler rule that looks right is checked in the same run, and has to
// fail: a test that does not catch it would prove nothing.
//
// The package does not show what holds after a crash of a server or across an
// epoch.
package attack
