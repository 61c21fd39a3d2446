// Package saga is the language of Capsaga: writes, mutations, policies,
// outcomes, versions, the catalog's types, error classes and every name that
// goes over a wire. It is pure: no I/O, no clock, the standard library only, so
// that workflow code, services and adapters can all speak it.
package saga
