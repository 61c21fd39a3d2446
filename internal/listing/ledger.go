package listing

import "github.com/capsaga/capsaga/internal/postgres"

// ListFilter is what a Ledger is asked.
type ListFilter = postgres.ListFilter

// ListCursor is a place in the ledger's list.
type ListCursor = postgres.ListCursor

// LedgerEntry is what a Ledger answers.
type LedgerEntry = postgres.LedgerEntry
