package catalog_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/saga"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMarshalGolden(t *testing.T) {
	f, err := catalog.Load("testdata/shop.yaml")
	require.NoError(t, err)
	for path, marshal := range map[string]func(*saga.Catalog) ([]byte, error){
		"testdata/shop.golden.yaml": catalog.MarshalYAML,
		"testdata/shop.golden.json": catalog.MarshalJSON,
	} {
		got, err := marshal(f.Catalog)
		require.NoError(t, err)
		if *update {
			require.NoError(t, os.WriteFile(path, got, 0o600))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, string(want), string(got), path)
		again, err := catalog.Parse(path, got)
		require.NoError(t, err, "what show prints can be loaded")
		sameCatalog(t, f.Catalog, again.Catalog)
	}
}

func sameCatalog(t assert.TestingT, want, got *saga.Catalog) {
	for _, c := range []*saga.Catalog{want, got} {
		for _, e := range c.Entities {
			if x := e.Elasticsearch; x != nil {
				x.Mappings, x.Settings = compact(x.Mappings), compact(x.Settings)
			}
		}
	}
	assert.Equal(t, want, got)
}

// compact drops white space and keeps all else, the text of numbers with it.
func compact(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return nil
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// readable leaves out the control characters that no YAML file may hold.
func readable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' && r != '\t' })
}

// quoted writes JSON text as the reader of the catalog does, so that bytes can
// be compared.
func quoted(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)
	return strings.TrimSuffix(b.String(), "\n")
}

// Whatever a catalog holds, what MarshalYAML and MarshalJSON write loads as the
// same catalog: text that looks like a number stays text, numbers keep theirs.
func TestMarshalRoundTrip(t *testing.T) {
	text := rapid.OneOf(
		rapid.StringN(1, 12, 40).Filter(readable),
		rapid.SampledFrom([]string{"1", "1.50", "true", "null", "~", "2001-01-01", "0x1F", "- a", "a: b", "<<", "=", "*a", "&a", "no"}),
	)
	number := rapid.SampledFrom([]string{"0", "-1", "1.50", "1e3", "12345678901234567890123", "0.1000", "-0"})
	object := rapid.Custom(func(t *rapid.T) json.RawMessage {
		members := rapid.MapOfN(text, rapid.OneOf(number, rapid.Map(text, quoted), rapid.SampledFrom([]string{"true", "null", "[]", "{}", "[1,[2.0]]", `{"a":{"b":[]}}`})), 0, 4).Draw(t, "members")
		var parts []string
		for name, value := range members {
			parts = append(parts, quoted(name)+":"+value)
		}
		return json.RawMessage("{" + strings.Join(parts, ",") + "}")
	})
	reaction := rapid.SampledFrom([]saga.OnReject{saga.OnRejectCompensate, saga.OnRejectPark, saga.OnRejectSkip})
	patience := rapid.Map(rapid.IntRange(1, 1e6), func(n int) saga.Duration { return saga.Duration(time.Duration(n) * time.Second) })
	own := rapid.Custom(func(t *rapid.T) saga.Policy { // of a sink, which may leave each out
		return saga.Policy{
			OnReject:  rapid.OneOf(rapid.Just(saga.OnReject("")), reaction).Draw(t, "on_reject"),
			ParkAfter: rapid.OneOf(rapid.Just(saga.Duration(0)), patience).Draw(t, "park_after"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		c := &saga.Catalog{
			Entities:        map[string]*saga.Entity{},
			LedgerRetention: time.Duration(rapid.IntRange(1, 1e4).Draw(t, "retention")) * time.Hour,
			Streams:         saga.Streams{Failover: rapid.Bool().Draw(t, "failover")},

			DecimalHandlingMode: rapid.SampledFrom([]saga.DecimalMode{saga.DecimalString, saga.DecimalPrecise, saga.DecimalDouble}).Draw(t, "decimal"),
			TimePrecisionMode:   rapid.SampledFrom([]saga.TimeMode{saga.TimeAdaptive, saga.TimeAdaptiveMicroseconds, saga.TimeConnect, saga.TimeISOString, saga.TimeMicroseconds, saga.TimeNanoseconds, saga.TimeStructured}).Draw(t, "time"),
		}
		for i := range rapid.IntRange(1, 3).Draw(t, "entities") {
			name := fmt.Sprintf("e%d", i)
			c.Entities[name] = &saga.Entity{
				Name:   name,
				Table:  saga.Table{Schema: "public", Name: text.Draw(t, "table") + name},
				Key:    rapid.SliceOfNDistinct(text, 1, 3, rapid.ID).Draw(t, "key"),
				Policy: saga.Policy{OnReject: reaction.Draw(t, "on_reject"), ParkAfter: patience.Draw(t, "park_after")},
				Redis: &saga.RedisSink{
					TTL:          time.Duration(rapid.IntRange(0, 1e6).Draw(t, "ttl")) * time.Second,
					TombstoneTTL: time.Duration(rapid.IntRange(1, 1e6).Draw(t, "tombstone")) * time.Second,
					Policy:       own.Draw(t, "redis"),
				},
				Kafka:         &saga.KafkaSink{Partitions: rapid.IntRange(1, 100).Draw(t, "partitions"), Replication: 1, Cleanup: "compact,delete", Policy: own.Draw(t, "kafka")},
				Elasticsearch: &saga.ElasticsearchSink{Mappings: object.Draw(t, "mappings"), Settings: object.Draw(t, "settings"), Policy: own.Draw(t, "elasticsearch")},
			}
		}
		for _, marshal := range []func(*saga.Catalog) ([]byte, error){catalog.MarshalYAML, catalog.MarshalJSON} {
			written, err := marshal(c)
			require.NoError(t, err)
			again, err := catalog.Parse("c.yaml", written)
			require.NoError(t, err, "%s", written)
			sameCatalog(t, c, again.Catalog)
		}
	})
}
