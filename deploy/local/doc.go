// Capsaga-local runs PostgreSQL with a replica, Redis, Kafka, Elasticsearch and
// Temporal as ordinary processes of this machine: the stack that the demo, the
// tests and a developer's day need, without a container engine.
//
// The servers are detached from the program and outlive it. What is known of
// them is in files of the instance's folder (run/ for process ids, NAME/ for a
// server's data, logs/ for its output), so every command works on its own and
// an instance survives a lost terminal. After a crash of the machine or of a
// server, "up" starts what is missing on the same data. Everything listens on
// the loopback address only, without passwords: it is no production setup.
//
// Each server has a file of its own that says what it needs, how its folder is
// made and when it is ready; stack.go orders them, process.go signals them,
// artifacts.go fetches and verifies their files.
package main

//go:generate go run ./genlock artifacts.lock
