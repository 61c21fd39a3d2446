package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"go.temporal.io/api/serviceerror"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/capsaga/capsaga/internal/listing"
	"github.com/capsaga/capsaga/saga"
)

// download says which histories to keep, and where.
type download struct {
	folder string
	ids    []string
	filter saga.Filter
}

// kept is what became of one history.
type kept struct {
	SagaID string `json:"saga_id"`
	File   string `json:"file,omitempty"`
	Events int    `json:"events,omitempty"`
	Error  string `json:"error,omitempty"`
}

func (a *app) downloadHistories(ctx context.Context, d download) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	temporal, err := a.temporal(ctx, c)
	if err != nil {
		return err
	}
	if len(d.ids) == 0 {
		err = a.each(ctx, c, d.filter, func(s *listing.Saga) {
			if s.Workflow != listing.Gone {
				d.ids = append(d.ids, s.SagaID)
			}
		})
		if err != nil {
			return err
		}
	}
	if err := os.MkdirAll(d.folder, 0o700); err != nil {
		return err
	}
	var results []kept
	missed := 0
	for _, id := range d.ids {
		k := kept{SagaID: id}
		history, err := historyOf(ctx, temporal, saga.WorkflowID(id))
		if err == nil {
			var text []byte
			if text, err = (protojson.MarshalOptions{Indent: " "}).Marshal(history); err == nil {
				k.File, k.Events = historyFile(id), len(history.GetEvents())
				err = os.WriteFile(filepath.Join(d.folder, k.File), append(text, '\n'), 0o600)
			}
		}
		if err != nil {
			missed++
			k.Error = noHistory(err)
		}
		results = append(results, k)
		if ctx.Err() != nil {
			break
		}
	}
	if err := a.writeKept(results); err != nil {
		return err
	}
	return downloaded(ctx, len(d.ids), len(results), missed)
}

// downloaded is the error of a download whose exit status fits.
func downloaded(ctx context.Context, all, tried, missed int) error {
	var err error
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("stopped after %d of %s", tried, sagasOf(all))
	case missed > 0:
		err = fmt.Errorf("%d of %s: no history was kept, each is named above", missed, sagasOf(all))
	default:
		return nil
	}
	if missed < tried {
		err = &exitError{status: statusSome, err: err}
	}
	return err
}

func noHistory(err error) string {
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return "Temporal has no workflow of it: it was never started, or its history is past its retention"
	}
	return err.Error()
}

// maxFileName is what common file systems take.
const maxFileName = 255

// historyFile names the file of a saga's history.
func historyFile(sagaID string) string {
	const suffix = ".json"
	name := url.PathEscape(sagaID)
	if len(name)+len(suffix) > maxFileName || name[0] == '.' {
		name = "saga-" + digest([]byte(sagaID))
	}
	return name + suffix
}

func (a *app) writeKept(results []kept) error {
	if a.output == asJSON {
		if results == nil {
			results = []kept{}
		}
		return writeJSON(a.stdout, results)
	}
	if len(results) == 0 {
		a.note("no saga matches")
		return nil
	}
	t := newTable(a.stdout, "SAGA", "FILE", "EVENTS", "ERROR")
	for _, k := range results {
		t.row(k.SagaID, dash(k.File), fmt.Sprint(k.Events), dash(k.Error))
	}
	return t.flush()
}
