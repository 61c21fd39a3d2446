package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/capsaga/capsaga/saga"
)

// Times that the URL may set otherwise, as dial_timeout, read_timeout and
// write_timeout. They are short, as a saga whose Redis does not answer is better
// off waiting in its own patient retry.
const (
	defaultDialTimeout  = time.Second
	defaultReadTimeout  = 3 * time.Second
	defaultWriteTimeout = 3 * time.Second
)

// The fields of a row's hash.
const (
	fieldVersion = "v"
	fieldRow     = "d"
	fieldDeleted = "del"
	fieldExpires = "x"
)

// Store reads and writes rows in one Redis, under one prefix. It is safe for
// concurrent use.
type Store struct {
	client *goredis.Client
	prefix saga.Prefix
	addr   string // host:port, for errors
}

// Open prepares a store for redis://[user:password@]host:port/db (rediss for
// TLS). It does not connect; Ping does.
func Open(url string, prefix saga.Prefix) (*Store, error) {
	options, err := goredis.ParseURL(url)
	if err != nil {
		// The parser's error quotes the URL, and with it the password.
		return nil, rejected("the address is not understood: want redis://[user:password@]host:port/database, " +
			"rediss:// for TLS, and special characters of the password percent-encoded; check CAPSAGA_REDIS_URL")
	}
	configure(options)
	return &Store{client: goredis.NewClient(options), prefix: prefix, addr: options.Addr}, nil
}

// silence drops what the driver logs by itself.
type silence struct{}

// Printf does nothing.
func (silence) Printf(context.Context, string, ...any) {}

// Silence turns the driver's own log off, for the whole process: a main calls it,
// since each failure comes as an error as well.
func Silence() { goredis.SetLogger(silence{}) }

// configure leaves patience to the saga: the driver neither retries nor dials
// again, and it sends nothing of its own on a new connection but the login.
func configure(options *goredis.Options) {
	options.MaxRetries = -1
	options.DialerRetries = 1
	options.ContextTimeoutEnabled = true
	options.Protocol = 2
	options.DisableIdentity = true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	if options.DialTimeout == 0 {
		options.DialTimeout = defaultDialTimeout
	}
	if options.ReadTimeout == 0 {
		options.ReadTimeout = defaultReadTimeout
	}
	if options.WriteTimeout == 0 {
		options.WriteTimeout = defaultWriteTimeout
	}
}

// Close ends all connections.
func (s *Store) Close() error { return s.client.Close() }

// Ping asks the server for a sign of life.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.client.Ping(ctx).Err(); err != nil {
		return classifyRead("ping "+s.addr, err)
	}
	return nil
}

// Get returns a row, or its tombstone: a document whose Row is nil. A row that
// has expired is not found.
func (s *Store) Get(ctx context.Context, entity, key string) (doc saga.Document, found bool, err error) {
	name := s.prefix.RedisKey(entity, key)
	pipe := s.client.Pipeline()
	fields := pipe.HMGet(ctx, name, fieldVersion, fieldRow, fieldDeleted, fieldExpires)
	now := pipe.Time(ctx)
	if _, err := pipe.Exec(ctx); err != nil {
		return saga.Document{}, false, classifyRead("get "+name, err)
	}
	doc = saga.Document{Entity: entity, Key: key}
	found, err = decode(&doc, fields.Val(), now.Val())
	if err != nil {
		return saga.Document{}, false, rejected(fmt.Sprintf("get %s: %s: the key was not written by Capsaga; delete it and the next read fills it", name, err))
	}
	return doc, found, nil
}

// decode fills a document from the values of the fields v, d, del and x.
func decode(doc *saga.Document, values []any, now time.Time) (found bool, err error) {
	text := func(i int) string { s, _ := values[i].(string); return s }
	version, row, deleted, expires := text(0), text(1), text(2), text(3)
	if version == "" || row == "" && deleted == "" {
		return false, nil
	}
	if doc.Version, err = saga.ParseVersion(version); err != nil {
		return false, err
	}
	if deleted != "" {
		return true, nil
	}
	if expires != "" {
		at, err := strconv.ParseInt(expires, 10, 64)
		if err != nil {
			return false, fmt.Errorf("field %s: %q is not a time in milliseconds", fieldExpires, expires)
		}
		if now.UnixMilli() >= at {
			return false, nil
		}
	}
	doc.Row = []byte(row)
	return true, nil
}

// Mark returns a value that Capsaga keeps for itself outside PostgreSQL, such as
// the epoch's high-water mark.
func (s *Store) Mark(ctx context.Context, name string) (value string, found bool, err error) {
	value, err = s.client.Get(ctx, s.markKey(name)).Result()
	switch {
	case errors.Is(err, goredis.Nil):
		return "", false, nil
	case err != nil:
		return "", false, classifyRead("get "+s.markKey(name), err)
	}
	return value, true, nil
}

// SetMark sets a value that Mark returns.
func (s *Store) SetMark(ctx context.Context, name, value string) error {
	if err := s.client.Set(ctx, s.markKey(name), value, 0).Err(); err != nil {
		return classify("set "+s.markKey(name), err)
	}
	return nil
}

// markKey returns a key that is no row's, as no entity's name begins with "_".
func (s *Store) markKey(name string) string { return string(s.prefix) + ":_" + name }
