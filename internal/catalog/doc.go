// Package catalog reads the catalog, the YAML file that names the entities and
// their sinks, and checks it against the live database.
//
// Reading is strict: what is not understood is a problem, because a misspelt
// setting that is passed over is found only when data is missing. All problems
// of a file are reported at once, each with its line and field.
//
// The package changes nothing; internal/provision creates what a catalog names.
package catalog
