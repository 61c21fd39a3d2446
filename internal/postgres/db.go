package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/capsaga/capsaga/saga"
)

// Querier is what a pool, a connection and a transaction have in common.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// DB is a pool of connections to the primary.
type DB struct {
	pool               *pgxpool.Pool
	marks              []Mark
	replicationTimeout time.Duration

	mu     sync.Mutex
	tables map[saga.Table]*TableInfo
	epoch  knownEpoch
}

// SessionParams fix the text form of every type, so that a row reads the same
// from any session: in a saga, in a repair and in the streams.
var SessionParams = map[string]string{
	"TimeZone":           "UTC",
	"DateStyle":          "ISO, MDY",
	"IntervalStyle":      "postgres",
	"bytea_output":       "hex",
	"extra_float_digits": "1",
}

// DefaultReplicationTimeout is how long a `cp` commit waits for the synchronous replica
// before it answers that only the primary has it.
const DefaultReplicationTimeout = 10 * time.Second

// Option changes how a DB is opened.
type Option func(*DB)

// WithMarks keeps the high-water mark of the WAL outside PostgreSQL, by which a
// restored disk snapshot is told. One of several stores may be away.
func WithMarks(marks ...Mark) Option { return func(db *DB) { db.marks = marks } }

// WithReplicationTimeout replaces DefaultReplicationTimeout.
func WithReplicationTimeout(d time.Duration) Option {
	return func(db *DB) { db.replicationTimeout = d }
}

// defaultPoolSize is used where the URL names no pool_max_conns.
const defaultPoolSize = 16

// Open connects to the primary. The pool connects lazily; Ping tells whether the
// server is there.
func Open(ctx context.Context, url string, options ...Option) (*DB, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The driver's text may hold the URL and so the password.
		return nil, &saga.Error{
			Class: saga.Rejected, System: "postgres", Code: saga.CodeInvalidValue,
			Message: "CAPSAGA_POSTGRES_URL is not a PostgreSQL connection string: want postgres://user:password@host:port/database",
		}
	}
	for name, value := range SessionParams {
		config.ConnConfig.RuntimeParams[name] = value
	}
	config.ConnConfig.RuntimeParams["application_name"] = "capsaga"
	config.ConnConfig.OnNotice = recordNotice
	if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = defaultPoolSize
	}
	config.MaxConnIdleTime = 5 * time.Minute
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, classify("connect", err)
	}
	db := &DB{pool: pool, replicationTimeout: DefaultReplicationTimeout, tables: map[saga.Table]*TableInfo{}}
	for _, option := range options {
		option(db)
	}
	return db, nil
}

// Pool returns the pool, for reads of packages that have queries of their own.
func (db *DB) Pool() *pgxpool.Pool { return db.pool }

// Close ends all connections.
func (db *DB) Close() { db.pool.Close() }

// Ping reports whether the primary answers; it fails on a standby.
func (db *DB) Ping(ctx context.Context) error {
	var standby bool
	if err := db.pool.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil {
		return classify("ping", err)
	}
	if standby {
		return &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable,
			Message: fmt.Sprintf("%s is a standby, which takes no writes: point CAPSAGA_POSTGRES_URL at the primary", db.address()),
		}
	}
	return nil
}

func (db *DB) address() string {
	c := db.pool.Config().ConnConfig
	return fmt.Sprintf("%s:%d/%s", c.Host, c.Port, c.Database)
}

//go:embed migrations/*.sql
var migrations embed.FS

// versionTable is where the state of the migrations is kept. Its schema has to be
// there before the first migration runs, so Migrate creates it.
const versionTable = saga.Schema + ".migration"

// Migrate brings Capsaga's own schema to this build's state. It is idempotent
// and safe to run from several processes at once. It returns the names of the
// migrations that it ran.
func Migrate(ctx context.Context, url string) ([]string, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, &saga.Error{Class: saga.Rejected, System: "postgres", Code: saga.CodeInvalidValue, Message: "CAPSAGA_POSTGRES_URL is not a PostgreSQL connection string"}
	}
	db := stdlib.OpenDB(*config)
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1) // the advisory lock below belongs to one session

	// Two first runs at once would both create the schema.
	if _, err := db.ExecContext(ctx, "SELECT pg_advisory_lock(hashtext('capsaga.migrate'))"); err != nil {
		return nil, classify("lock the migrations", err)
	}
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+saga.Schema); err != nil {
		return nil, classify("create schema "+saga.Schema, err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("read the embedded migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName(versionTable))
	if err != nil {
		return nil, fmt.Errorf("read the embedded migrations: %w", err)
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return nil, classify("migrate schema "+saga.Schema, err)
	}
	var names []string
	for _, r := range results {
		names = append(names, r.Source.Path)
	}
	return names, nil
}

// CheckSchema returns nil when the primary answers and has Capsaga's schema in
// this build's state.
func (db *DB) CheckSchema(ctx context.Context) error {
	if err := db.Ping(ctx); err != nil {
		return err
	}
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return fmt.Errorf("read the embedded migrations: %w", err)
	}
	var done int
	err = db.pool.QueryRow(ctx, "SELECT max(version_id) FROM "+versionTable).Scan(&done)
	if state := sqlState(err); state == "42P01" || state == "3F000" || err == nil && done < len(names) {
		return &saga.Error{
			Class: saga.Unavailable, System: "postgres", Code: saga.CodeUnavailable,
			Message: fmt.Sprintf("database %s lacks Capsaga's schema, or has an older one: run `capsaga catalog apply`", db.address()),
		}
	}
	return classify("read the state of the migrations", err)
}

// notices collects what the server warned of on one connection.
type notices struct{ warnings []*pgconn.Notice }

const noticesKey = "capsaga.notices"

func recordNotice(conn *pgconn.PgConn, n *pgconn.Notice) {
	if kept, ok := conn.CustomData()[noticesKey].(*notices); ok {
		kept.warnings = append(kept.warnings, n)
	}
}

// watchNotices returns the connection's collector, emptied.
func watchNotices(conn *pgx.Conn) *notices {
	kept := &notices{}
	conn.PgConn().CustomData()[noticesKey] = kept
	return kept
}

func noRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }
