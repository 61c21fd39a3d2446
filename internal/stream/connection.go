package stream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

const (
	// senderTimeout is how long the walsender waits for a word of ours before
	// it gives up the slot.
	senderTimeout = 4 * time.Second
	// silenceLimit is how long we wait for a word of the walsender's before we
	// stop publishing. It is below senderTimeout by more than a request to
	// Kafka takes, so that a holder has stopped before its successor starts.
	silenceLimit = 2 * time.Second
	// askEvery is how often we ask the walsender for a word.
	askEvery = 500 * time.Millisecond

	connectTimeout = 3 * time.Second
	// readBytes is read from the connection at once, where it has as much: the
	// driver's own 8 kB are a system call for every few rows of a backlog.
	readBytes = 64 << 10
)

// replicationConfig reads a connection string into that of a replication
// connection. Its errors hold no part of the string.
func replicationConfig(url string) (*pgconn.Config, error) {
	// pgx's parser, unlike pgconn's, takes the pool's options out of the URL.
	parsed, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, &saga.Error{
			Class: saga.Rejected, System: "postgres", Code: saga.CodeInvalidValue,
			Message: "CAPSAGA_POSTGRES_URL is not a PostgreSQL connection string: want postgres://user:password@host:port/database",
		}
	}
	config := &parsed.Config
	// The same text forms as in every other session of Capsaga's.
	maps.Copy(config.RuntimeParams, postgres.SessionParams)
	config.RuntimeParams["lc_monetary"] = "C"
	config.RuntimeParams["client_encoding"] = "UTF8"
	config.RuntimeParams["replication"] = "database"
	config.RuntimeParams["application_name"] = "capsaga-stream"
	config.RuntimeParams["wal_sender_timeout"] = fmt.Sprint(senderTimeout.Milliseconds())
	config.ConnectTimeout = connectTimeout
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBytes), w)
	}
	return config, nil
}

// startReplication takes the slot; PostgreSQL refuses while another holds it.
func (r *Reader) startReplication(ctx context.Context) (*pgconn.PgConn, error) {
	slot := r.config.Slot
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, r.conn)
	if err != nil {
		return nil, classify("connect for replication", err)
	}
	if r.alter { // it can be changed while nobody holds the slot, and by this connection alone
		err := postgres.AlterSlot(ctx, conn, r.slot())
		if err != nil && !slotActive(err) {
			r.log.Warn("the slot's failover stays as it is", "error", err)
		}
	}
	err = pglogrepl.StartReplication(ctx, conn, quoteIdentifier(slot), 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication,
		PluginArgs: []string{
			"proto_version '1'",
			"publication_names " + quoteLiteral(quoteNames(r.config.Publications)),
			"messages 'true'",
		},
	})
	if err != nil {
		closeConnection(conn)
		return nil, classify("start replication from slot "+slot, err)
	}
	return conn, nil
}

// finishLimit is how long a holder that leaves waits for the walsender to have taken
// its last word.
const finishLimit = 500 * time.Millisecond

// finishReplication ends the stream and waits until the walsender agrees, which has
// then taken the last position too. A connection that is closed while it has data
// that nobody read is reset, and what was sent on it may be lost with it: nothing
// would be missed, but the next holder would repeat.
func finishReplication(conn *pgconn.PgConn) {
	_ = conn.Conn().SetReadDeadline(time.Now().Add(finishLimit))
	conn.Frontend().Send(&pgproto3.CopyDone{})
	if err := conn.Frontend().Flush(); err != nil {
		return
	}
	for {
		message, err := conn.ReceiveMessage(context.Background())
		if err != nil {
			return
		}
		switch message.(type) {
		case *pgproto3.ReadyForQuery, *pgproto3.ErrorResponse:
			return
		}
	}
}

// closeConnection ends the walsender, which sets the slot free.
func closeConnection(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // there is nothing more to do about it
}

func quoteIdentifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func quoteNames(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = quoteIdentifier(name)
	}
	return strings.Join(quoted, ",")
}
