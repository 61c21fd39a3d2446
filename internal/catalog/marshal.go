package catalog

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/capsaga/capsaga/saga"
)

// The normalised catalog: every default written out, entities by name. Both
// forms have the fields of the file, so that what `show` prints can be loaded.
type (
	catalogForm struct {
		Version     int                   `json:"version"`
		KafkaTables any                   `json:"kafka_tables"`
		Kafka       eventsForm            `json:"kafka"`
		Ledger      ledgerForm            `json:"ledger"`
		Streams     streamsForm           `json:"streams"`
		Entities    map[string]entityForm `json:"entities"` // encoded in the order of names
	}
	eventsForm struct {
		TransactionMetadata bool             `json:"transaction_metadata"`
		DecimalHandlingMode saga.DecimalMode `json:"decimal_handling_mode"`
		TimePrecisionMode   saga.TimeMode    `json:"time_precision_mode"`
	}
	ledgerForm struct {
		Retention string `json:"retention"`
	}
	streamsForm struct {
		Failover bool `json:"failover"`
	}
	entityForm struct {
		Table  string     `json:"table"`
		Key    []string   `json:"key"`
		Policy policyForm `json:"policy"`
		Sinks  sinksForm  `json:"sinks"`
	}
	policyForm struct {
		OnReject  saga.OnReject `json:"on_reject,omitempty"`
		ParkAfter string        `json:"park_after,omitempty"`
	}
	sinksForm struct {
		Redis         *redisForm         `json:"redis,omitempty"`
		Kafka         *kafkaForm         `json:"kafka,omitempty"`
		Elasticsearch *elasticsearchForm `json:"elasticsearch,omitempty"`
	}
	redisForm struct {
		TTL          string      `json:"ttl"`
		TombstoneTTL string      `json:"tombstone_ttl"`
		Policy       *policyForm `json:"policy,omitempty"`
	}
	kafkaForm struct {
		Partitions  int         `json:"partitions"`
		Replication int         `json:"replication"`
		Cleanup     string      `json:"cleanup"`
		Policy      *policyForm `json:"policy,omitempty"`
	}
	elasticsearchForm struct {
		Mappings json.RawMessage `json:"mappings,omitempty"`
		Settings json.RawMessage `json:"settings,omitempty"`
		Policy   *policyForm     `json:"policy,omitempty"`
	}
)

func formOf(c *saga.Catalog) catalogForm {
	form := catalogForm{
		Version: 1, KafkaTables: "all", Entities: map[string]entityForm{},
		Kafka:   eventsOf(c),
		Ledger:  ledgerForm{Retention: durationText(c.Retention())},
		Streams: streamsForm{Failover: c.Streams.Failover},
	}
	if c.KafkaTables != nil {
		form.KafkaTables = c.KafkaTables
	}
	for name, e := range c.Entities {
		form.Entities[name] = entityForm{
			Table: e.Table.String(), Key: e.Key, Policy: policyOf(e.Policy.Or(defaultPolicy)), Sinks: sinksOf(e),
		}
	}
	return form
}

func eventsOf(c *saga.Catalog) eventsForm {
	return eventsForm{
		TransactionMetadata: c.TransactionMetadata,
		DecimalHandlingMode: cmp.Or(c.DecimalHandlingMode, saga.DecimalString),
		TimePrecisionMode:   cmp.Or(c.TimePrecisionMode, saga.TimeAdaptive),
	}
}

func policyOf(p saga.Policy) policyForm {
	form := policyForm{OnReject: p.OnReject}
	if p.ParkAfter > 0 {
		form.ParkAfter = durationText(time.Duration(p.ParkAfter))
	}
	return form
}

// ownPolicyOf is a sink's policy, without what the entity's says.
func ownPolicyOf(p saga.Policy) *policyForm {
	if p == (saga.Policy{}) {
		return nil
	}
	form := policyOf(p)
	return &form
}

func sinksOf(e *saga.Entity) (s sinksForm) {
	if r := e.Redis; r != nil {
		tombstone := r.TombstoneTTL
		if tombstone == 0 {
			tombstone = saga.DefaultTombstoneTTL
		}
		s.Redis = &redisForm{TTL: durationText(r.TTL), TombstoneTTL: durationText(tombstone), Policy: ownPolicyOf(r.Policy)}
	}
	if k := e.Kafka; k != nil {
		n := *k
		if n.Cleanup == "" {
			n.Cleanup = cleanups[0]
		}
		s.Kafka = &kafkaForm{Partitions: max(n.Partitions, 1), Replication: max(n.Replication, 1), Cleanup: n.Cleanup, Policy: ownPolicyOf(n.Policy)}
	}
	if x := e.Elasticsearch; x != nil {
		s.Elasticsearch = &elasticsearchForm{Mappings: x.Mappings, Settings: x.Settings, Policy: ownPolicyOf(x.Policy)}
	}
	return s
}

// durationText is time.Duration's text without units that are zero: 24h.
func durationText(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if len(text) > len(zero) && text[len(text)-len(zero):] == zero {
			text = text[:len(text)-2]
		}
	}
	return text
}

// MarshalJSON returns the normalised catalog as indented JSON; numbers in
// mappings and settings keep their text.
func MarshalJSON(c *saga.Catalog) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(formOf(c)); err != nil {
		return nil, fmt.Errorf("write the catalog as JSON: %w", err)
	}
	return b.Bytes(), nil
}

// MarshalYAML returns the normalised catalog as YAML.
func MarshalYAML(c *saga.Catalog) ([]byte, error) {
	text, err := MarshalJSON(c)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	root, err := yamlNode(d)
	if err != nil {
		return nil, fmt.Errorf("write the catalog as YAML: %w", err)
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return nil, fmt.Errorf("write the catalog as YAML: %w", err)
	}
	return b.Bytes(), e.Close()
}

// yamlNode reads one JSON value as a YAML node, in its order and with the text
// of its numbers, which decoding into Go's maps and floats would lose.
func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch v := token.(type) {
	case json.Delim:
		return yamlList(d, v)
	case string:
		n := &yaml.Node{}
		n.SetString(v)
		if strings.ContainsAny(v, "\t\n") {
			// In a literal block a tab at a line's start reads as indentation.
			n.Style = yaml.DoubleQuotedStyle
		}
		return n, nil
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: v.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(v)}, nil
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	}
}

func yamlList(d *json.Decoder, open json.Delim) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	if open == '[' {
		n.Kind, n.Tag, n.Style = yaml.SequenceNode, "!!seq", yaml.FlowStyle
	}
	for d.More() {
		child, err := yamlNode(d)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, child)
	}
	_, err := d.Token() // the closing bracket
	return n, err
}
