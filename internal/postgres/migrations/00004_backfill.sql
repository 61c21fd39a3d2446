-- +goose Up
-- What was provisioned: where the rows of an entity are to go. A pair that is not
-- here yet needs a backfill, and so does one whose table has other columns.
CREATE TABLE capsaga.entity (
    entity     text NOT NULL,
    sink       text NOT NULL,
    table_name text NOT NULL,               -- schema.table
    key        text[] NOT NULL,
    shape      text NOT NULL,               -- the columns, as of the last backfill that they asked for
    retired    boolean NOT NULL DEFAULT false, -- the catalog has it no more; its rows are still in the sink
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (entity, sink)
);

-- The backfills. Each chunk of rows goes into the WAL in the transaction that moves
-- the cursor past it.
CREATE TABLE capsaga.backfill (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity       text NOT NULL,
    table_name   text NOT NULL,
    key          text[] NOT NULL,           -- columns that identify a row
    sinks        text[] NOT NULL,
    reason       text NOT NULL,
    state        text NOT NULL DEFAULT 'requested', -- running, done, failed, cancelled
    horizon      xid8 NOT NULL,             -- begins when no older transaction is open
    floor        bigint,                    -- version below which nothing is left at the end
    index        text,                      -- new index of Elasticsearch
    cursor       text[],                    -- key of the last row that is done, as text
    last         text[],                    -- key of the last row to do
    rows         bigint NOT NULL DEFAULT 0,
    bytes        bigint NOT NULL DEFAULT 0,
    estimated    bigint NOT NULL DEFAULT 0, -- rows of the table at the beginning
    position     pg_lsn,                    -- of the last message
    error        text,                      -- what keeps it, or why it ended
    replaced_by  bigint,                    -- the backfill that does it instead
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at   timestamptz,
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz
);
CREATE INDEX backfill_open ON capsaga.backfill (id) WHERE finished_at IS NULL;
CREATE INDEX backfill_entity ON capsaga.backfill (entity, id);

-- +goose Down
DROP TABLE capsaga.backfill;
DROP TABLE capsaga.entity;
