-- +goose Up
-- The ledger: one row per saga, written in the transaction of its rows. The
-- primary key is what makes a commit happen once.
CREATE TABLE capsaga.saga (
    id          text PRIMARY KEY,
    workflow_id text NOT NULL,
    run_id      text NOT NULL,
    content     text NOT NULL,          -- digest of the write: another content under this id is refused
    write       json NOT NULL,          -- the request, from which a lost workflow starts again
    status      text NOT NULL,          -- pending only inside the transaction
    version     bigint,                 -- null when rejected
    result      json,                   -- owned keys with their etags, or the rejection
    before      json,                   -- per mutation the row before it, for compensation
    outcome     json,                   -- the last outcome that the workflow recorded
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
-- Finished sagas are pruned by age; open ones are few and listed.
CREATE INDEX saga_finished ON capsaga.saga (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX saga_open ON capsaga.saga (created_at) WHERE finished_at IS NULL;

-- The epochs, one row each. An epoch holds for positions from its start on,
-- until the next one's start: so a change that is read again after a promotion
-- keeps the epoch that it was written in.
CREATE TABLE capsaga.epoch (
    epoch             smallint PRIMARY KEY,
    system_identifier bigint NOT NULL,
    timeline          bigint NOT NULL,
    start_lsn         pg_lsn NOT NULL,
    raised_at         timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row per slot: how often it changed hands, and why its stream stands still.
CREATE TABLE capsaga.stream (
    slot       text PRIMARY KEY,
    generation bigint NOT NULL,
    holder     text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error      text,
    error_at   timestamptz
);

-- +goose Down
DROP TABLE capsaga.stream;
DROP TABLE capsaga.epoch;
DROP TABLE capsaga.saga;
