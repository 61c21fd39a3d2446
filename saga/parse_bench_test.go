package saga

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// benchWrites are writes of the sizes that the name says.
func benchWrites() map[string][]byte {
	var large strings.Builder
	for i := range 300 {
		fmt.Fprintf(&large, `,{"entity":"products","op":"upsert","row":{"id":%d,"title":"Kaffeemühle \"%d\"","text":"%s","price":12.50,"tags":{"size":"L","color":"red","more":[1,2,3]}}}`,
			i, i, strings.Repeat("some text of a product. ", 9))
	}
	return map[string][]byte{
		"150B": []byte(`{"saga_id":"order-1001-product-42","mutations":[{"entity":"products","op":"upsert","row":{"id":42,"title":"a title of some length","stock":5,"price":9.99}}]}`),
		"1kB": fmt.Appendf(nil, `{"saga_id":"order-1001","consistency":"cp","policy":{"on_reject":"compensate","park_after":"5m"},"mutations":[`+
			`{"entity":"orders","op":"insert","row":{"id":"order-1001","customer":77,"lines":[{"product":42,"count":2},{"product":43,"count":1}],"note":"%s"}},`+
			`{"entity":"products","op":"patch","key":{"id":42},"set":{"title":"Größe M","updated":"2026-01-01T00:00:00Z"},"add":{"stock":-2},"expect":{"exists":true,"where":[["stock",">=",2]]}},`+
			`{"entity":"products","op":"add","key":{"id":43},"add":{"stock":-1},"expect":{"etag":"9f3a"}}]}`, strings.Repeat("to be left at the door. ", 21)),
		"100kB": []byte(`{"saga_id":"import-1","mutations":[` + large.String()[1:] + `]}`),
	}
}

func eachWrite(b *testing.B, run func(b *testing.B, text []byte, w *Write)) {
	writes := benchWrites()
	for _, size := range []string{"150B", "1kB", "100kB"} {
		w, err := ParseWrite(writes[size])
		require.NoError(b, err)
		b.Run(size, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(writes[size])))
			run(b, writes[size], w)
		})
	}
}

// BenchmarkParseWrite and BenchmarkDigest measure a write's way in, and the slow
// paths beside it.
func BenchmarkParseWrite(b *testing.B) {
	eachWrite(b, func(b *testing.B, text []byte, _ *Write) {
		for b.Loop() {
			if _, err := ParseWrite(text); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkSlowParseWrite(b *testing.B) {
	eachWrite(b, func(b *testing.B, text []byte, _ *Write) {
		for b.Loop() {
			w, err := slowParseWrite(text)
			if err != nil || w.Validate() != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDigest(b *testing.B) {
	eachWrite(b, func(b *testing.B, _ []byte, w *Write) {
		for b.Loop() {
			w.Digest()
		}
	})
}

func BenchmarkSlowDigest(b *testing.B) {
	eachWrite(b, func(b *testing.B, _ []byte, w *Write) {
		for b.Loop() {
			digestOf(w.slowCanonical())
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	eachWrite(b, func(b *testing.B, _ []byte, w *Write) {
		for b.Loop() {
			if w.Validate() != nil {
				b.Fatal()
			}
		}
	})
}

func BenchmarkSummary(b *testing.B) {
	eachWrite(b, func(b *testing.B, _ []byte, w *Write) {
		for b.Loop() {
			w.Summary()
		}
	})
}

func BenchmarkEntities(b *testing.B) {
	eachWrite(b, func(b *testing.B, _ []byte, w *Write) {
		for b.Loop() {
			w.Entities()
		}
	})
}

func BenchmarkToken(b *testing.B) {
	owned := []Owned{{Entity: "products", Key: "42", ETag: "9f3a"}, {Entity: "users", Key: "a%3Ab", ETag: "77"}}
	b.ReportAllocs()
	for b.Loop() {
		_ = NewToken(1<<60, owned).String()
	}
}

func BenchmarkEncodeKey(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		EncodeKey([]string{"order-1001", "a:b"})
	}
}

func BenchmarkOutcome(b *testing.B) {
	var o Outcome
	o.SagaID, o.Status, o.Content = "order-1001", Committed, strings.Repeat("0f", 32)
	o.Own(1<<60, []Owned{{Entity: "products", Key: "42", ETag: "9f3a"}})
	o.Steps = []Step{{Name: StepCommit, State: StepDone, Attempts: 1}, {Name: StepRedis, State: StepPending}}
	b.Run("Marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := json.Marshal(o); err != nil {
				b.Fatal(err)
			}
		}
	})
	text, err := json.Marshal(o)
	require.NoError(b, err)
	b.Run("Unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var back Outcome
			if json.Unmarshal(text, &back) != nil {
				b.Fatal()
			}
		}
	})
}
