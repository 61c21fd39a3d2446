// Package e2e tests Capsaga as its users have it: worker processes, the CLI and
// the Go client on the real servers, with the demo's tables and catalog. It has
// tests only.
//
// The tests kill and pause the servers of the stack that they run on, so nothing
// else may use it meanwhile: `make test` runs one package at a time. The stack's
// folder is CAPSAGA_TEST_STACK_DIR (default .capsaga/test of the checkout) and its
// port base CAPSAGA_TEST_PORT_BASE (default 16000). Every test leaves all servers
// running.
package e2e
