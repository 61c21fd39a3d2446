package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

// result is how a run of the CLI ended.
type result struct {
	status         int
	stdout, stderr string
}

// capsaga runs the CLI; the input is its standard input.
func (w *world) capsaga(input string, args ...string) result {
	w.t.Helper()
	return runCLI(w.t, w.environ(), input, args...)
}

func runCLI(t testing.TB, environ []string, input string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program(t, programCLI), args...)
	command.Env, command.Stdin = environ, strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{status: command.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// lineOutcome is one line of `write -o json`.
type lineOutcome struct {
	Line int `json:"line"`
	saga.Outcome
}

// outcomes reads the answers, by line.
func (r result) outcomes(t testing.TB) map[int]lineOutcome {
	t.Helper()
	byLine := map[int]lineOutcome{}
	for text := range strings.Lines(r.stdout) {
		var o lineOutcome
		require.NoError(t, json.Unmarshal([]byte(text), &o), text)
		require.NotContains(t, byLine, o.Line)
		byLine[o.Line] = o
	}
	return byLine
}

// The demo's films through the CLI: all complete, all systems agree, and the same
// file again changes nothing.
func TestFilms(t *testing.T) {
	w := newWorld(t)
	w.startWorker()
	path, sagas := w.filmsFile()
	first := w.capsaga("", "write", path, "-o", "json", "--concurrency", "64")
	require.Zero(t, first.status, first.stderr)
	outcomes := first.outcomes(t)
	require.Len(t, outcomes, len(sagas))
	for _, o := range outcomes {
		require.Equal(t, saga.Completed, o.Status, "%+v", o)
	}
	require.Equal(t, int64(len(sagas)), value[int64](w, "SELECT count(*) FROM products"))
	w.requireConverged(sagas)
	events := len(w.events("products"))
	ledger := value[string](w, ledgerDigest)

	second := w.capsaga("", "write", path, "-o", "json", "--concurrency", "64")
	require.Zero(t, second.status, second.stderr)
	again := second.outcomes(t)
	require.Len(t, again, len(outcomes))
	for line, o := range outcomes {
		require.Equal(t, o, again[line])
	}
	require.Len(t, w.events("products"), events, "the second run has published")
	require.Equal(t, ledger, value[string](w, ledgerDigest), "the second run has changed the ledger")
	w.requireConverged(sagas)
}

const ledgerDigest = "SELECT count(*) || ' ' || md5(string_agg(s::text, '' ORDER BY id)) FROM capsaga.saga s"

// filmsFile writes the demo's films as sagas of this instance.
func (w *world) filmsFile() (path string, sagas map[string]int) {
	w.t.Helper()
	films, err := os.Open(filepath.Join(root, "deploy", "demo", "films.ndjson"))
	require.NoError(w.t, err)
	defer func() { _ = films.Close() }()
	sagas = map[string]int{}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	lines := bufio.NewScanner(films)
	for lines.Scan() {
		row := saga.Columns{}
		require.NoError(w.t, json.Unmarshal(lines.Bytes(), &row))
		row["stock"], row["price_cents"] = json.RawMessage("12"), json.RawMessage("999")
		write := saga.Write{SagaID: w.id("film-%s", row["id"]), Mutations: []saga.Mutation{{Entity: "products", Op: saga.Upsert, Row: row}}}
		require.NoError(w.t, encoder.Encode(write))
		sagas[write.SagaID] = 1
	}
	require.NoError(w.t, lines.Err())
	require.Len(w.t, sagas, 3200)
	path = filepath.Join(w.t.TempDir(), "films.ndjson")
	require.NoError(w.t, os.WriteFile(path, out.Bytes(), 0o600))
	return path, sagas
}

// Each bad line answers with a clear error and leaves nothing behind; the good
// lines between them are written.
func TestBadInput(t *testing.T) {
	w := newWorld(t)
	w.startWorker()
	mutation := func(text string) string {
		return `{"saga_id":"SAGA","mutations":[` + text + `]}`
	}
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	lines := []struct {
		name, text string
		code       string   // empty: the line is good
		says       []string // what the message names
	}{
		{name: "good", text: mutation(`{"entity":"products","op":"insert","row":{"id":1,"title":"Lamp","stock":1}}`)},
		{"malformed", `{"saga_id":"SAGA","mutations":[`, saga.CodeInvalidWrite, []string{"ends before"}},
		{"no JSON", `hello`, saga.CodeInvalidWrite, []string{"malformed JSON at byte"}},
		{"no saga id", `{"mutations":[{"entity":"products","op":"delete","key":{"id":1}}]}`, saga.CodeInvalidWrite, []string{"saga_id is missing"}},
		{"no mutations", `{"saga_id":"SAGA","mutations":[]}`, saga.CodeInvalidWrite, []string{"mutations is empty"}},
		{"unknown field", `{"saga_id":"SAGA","mutatoins":[]}`, saga.CodeInvalidWrite, []string{"mutatoins"}},
		{"a key twice", mutation(`{"entity":"products","op":"insert","row":{"id":7,"id":8,"title":"x"}}`), saga.CodeInvalidWrite, []string{`"id" stands twice`}},
		{"nested deeply", mutation(`{"entity":"products","op":"insert","row":{"id":7,"title":` + deep + `}}`), saga.CodeInvalidWrite, []string{"nested deeper than 100"}},
		{"a line of 100 MB", mutation(`{"entity":"products","op":"insert","row":{"id":7,"title":"` + strings.Repeat("x", 100<<20) + `"}}`), saga.CodeInvalidWrite, []string{"a line of 104857", "1048576"}},
		{"unknown entity", mutation(`{"entity":"prodcuts","op":"insert","row":{"id":7}}`), saga.CodeUnknownEntity, []string{`"prodcuts"`, "products, users"}},
		{"unknown column", mutation(`{"entity":"products","op":"insert","row":{"id":7,"titel":"x"}}`), saga.CodeUnknownColumn, []string{"titel"}},
		{"missing key column", mutation(`{"entity":"products","op":"upsert","row":{"title":"x"}}`), saga.CodeMissingKey, []string{"id"}},
		{"does not fit", mutation(`{"entity":"products","op":"insert","row":{"id":7,"title":"x","stock":"many"}}`), saga.CodeInvalidValue, []string{"stock"}},
		{"1e400", mutation(`{"entity":"products","op":"insert","row":{"id":7,"title":"x","stock":1e400}}`), saga.CodeInvalidValue, []string{"stock"}},
		{"too big", mutation(`{"entity":"products","op":"insert","row":{"id":7,"title":"x","imdb_votes":2147483648}}`), saga.CodeInvalidValue, []string{"imdb_votes"}},
		{"no date", mutation(`{"entity":"products","op":"insert","row":{"id":7,"title":"x","released":"soon"}}`), saga.CodeInvalidValue, []string{"released"}},
		{"check", mutation(`{"entity":"products","op":"insert","row":{"id":7,"title":"x","stock":-1}}`), saga.CodeConstraintViolation, []string{"products_stock_check"}},
		{"not null", mutation(`{"entity":"products","op":"insert","row":{"id":7,"title":null}}`), saga.CodeConstraintViolation, []string{"title"}},
		{"absent", mutation(`{"entity":"products","op":"patch","key":{"id":404},"set":{"title":"x"}}`), saga.CodeNotFound, []string{"404"}},
		{"good again", mutation(`{"entity":"products","op":"insert","row":{"id":2,"title":"Chair","stock":1}}`), "", nil},
		{"half good", mutation(`{"entity":"products","op":"insert","row":{"id":7,"title":"x"}},{"entity":"products","op":"insert","row":{"id":8,"title":"x","stock":-1}}`), saga.CodeConstraintViolation, []string{"products_stock_check"}},
		{"injection", mutation(`{"entity":"products","op":"insert","row":{"id":7,"title\" = 'x'; DROP TABLE products; --":"x"}}`), saga.CodeUnknownColumn, []string{"DROP TABLE"}},
	}
	var input strings.Builder
	for n, line := range lines {
		input.WriteString(strings.Replace(line.text, "SAGA", w.id("%d", n+1), 1) + "\n")
	}
	r := w.capsaga(input.String(), "write", "-", "-o", "json")
	require.Equal(t, 3, r.status, r.stderr)
	outcomes := r.outcomes(t)
	require.Len(t, outcomes, len(lines))
	for n, line := range lines {
		o := outcomes[n+1]
		if line.code == "" {
			require.Equal(t, saga.Completed, o.Status, "%s: %+v", line.name, o)
			continue
		}
		require.NotNil(t, o.Error, "%s: %+v", line.name, o)
		require.Equal(t, line.code, o.Error.Code, "%s: %+v", line.name, o.Error)
		require.Contains(t, []saga.Status{saga.Failed, saga.RejectedEnd}, o.Status, line.name)
		for _, text := range line.says {
			require.Contains(t, o.Error.Message, text, line.name)
		}
		require.Less(t, len(o.Error.Message), 1000, line.name)
	}
	// In one run the order of lines is not told, so what builds on others comes now.
	for _, line := range []struct{ id, text, code, says string }{
		{"1", mutation(`{"entity":"products","op":"insert","row":{"id":1,"title":"another","stock":1}}`), saga.CodeSagaIDReused, "other content"},
		{"twice", mutation(`{"entity":"products","op":"insert","row":{"id":1,"title":"Lamp"}}`), saga.CodeConstraintViolation, "products_pkey"},
		{"unmet", mutation(`{"entity":"products","op":"patch","key":{"id":1},"add":{"stock":-2},"expect":{"where":[["stock",">=",2]]}}`), saga.CodeExpectUnmet, "stock"},
	} {
		r := w.capsaga(strings.Replace(line.text, "SAGA", w.id("%s", line.id), 1), "write", "-", "-o", "json")
		require.Equal(t, 3, r.status, r.stderr)
		o := r.outcomes(t)[1]
		require.NotNil(t, o.Error, "%s: %+v", line.id, o)
		require.Equal(t, line.code, o.Error.Code, "%+v", o.Error)
		require.Contains(t, o.Error.Message, line.says)
	}
	rows := w.inPostgres("products")
	require.Len(t, rows, 2)
	require.Equal(t, "1", rows["1"]["stock"])
	requireSameRows(t, "Redis", rows, w.inRedis("products"))
	requireSameRows(t, "Elasticsearch", rows, w.inElasticsearch("products"))
	require.Equal(t, map[string]int{w.id("1"): 1, w.id("20"): 1}, changesBySaga(w.events("products")))
}

// A server that is away when a program starts is named, with what to check.
func TestServerAwayAtStart(t *testing.T) {
	w := newWorld(t)
	const nowhere = "127.0.0.1:1"
	r := runCLI(t, w.environ("TEMPORAL_ADDRESS="+nowhere), "", "write", "-")
	require.Equal(t, 1, r.status, r.stderr)
	require.Contains(t, r.stderr, "temporal at "+nowhere)
	require.Contains(t, r.stderr, "TEMPORAL_ADDRESS")
	r = runCLI(t, w.environ("CAPSAGA_POSTGRES_URL=postgres://capsaga@"+nowhere+"/x", "CAPSAGA_REDIS_URL=redis://"+nowhere), "", "catalog", "apply")
	require.Equal(t, 1, r.status, r.stderr)
	for _, name := range []string{"postgres", "CAPSAGA_POSTGRES_URL", "redis", nowhere} {
		require.Contains(t, r.stderr, name)
	}
	p := w.launchWorker("CAPSAGA_POSTGRES_URL=postgres://capsaga@" + nowhere + "/x")
	p.awaitLog("cannot begin yet", nowhere, "CAPSAGA_POSTGRES_URL")
	require.NotContains(t, fmt.Sprint(p.ready()), "ended", "a worker waits for its servers")
}
