// Package pgtext reads the text forms of PostgreSQL's values as pgoutput and
// the sessions of package postgres give them, for those who write them as JSON:
// what a type is made of, and the elements of an array.
package pgtext
