-- +goose Up
-- The row, in its sink, of a saga that a sink's stream began when the sink refused
-- what plain SQL had written: see saga.StreamChange.Row. Such a saga has no run_id
-- until its workflow is started.
ALTER TABLE capsaga.saga ADD COLUMN stream_row text;

-- A row has one open saga, however often it is refused. No index names a column
-- that a commit's UPDATE sets, such as the version, so that it stays heap-only.
CREATE UNIQUE INDEX saga_stream_open ON capsaga.saga (stream_row) WHERE stream_row IS NOT NULL AND finished_at IS NULL;
CREATE INDEX saga_stream_row ON capsaga.saga (stream_row) WHERE stream_row IS NOT NULL;
CREATE INDEX saga_stream_unstarted ON capsaga.saga (created_at) WHERE stream_row IS NOT NULL AND run_id = '' AND finished_at IS NULL;

-- +goose Down
DROP INDEX capsaga.saga_stream_unstarted, capsaga.saga_stream_row, capsaga.saga_stream_open;
ALTER TABLE capsaga.saga DROP COLUMN stream_row;
