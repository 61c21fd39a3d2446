-- +goose Up
-- What operators list sagas by, and what undoing them needs. Rows of the first
-- version of the ledger have their images in "before", as row_to_json wrote them;
-- later ones have "undo" instead.
ALTER TABLE capsaga.saga
    ADD COLUMN undo        json,                            -- per mutation {key, before, cascaded}, before in text forms
    ADD COLUMN entities    text[],                          -- that the write names; null: see the write
    ADD COLUMN blocked_on  text[] NOT NULL DEFAULT '{}',    -- systems that a parked saga waits for
    ADD COLUMN error_class text,
    ADD COLUMN error       json;
UPDATE capsaga.saga SET entities = ARRAY(SELECT DISTINCT m->>'entity' FROM json_array_elements(write->'mutations') m ORDER BY 1);

-- Lists read each status newest first and merge, so one index serves all of them.
-- The status does not change between a commit's INSERT and its UPDATE, which so
-- stays a heap-only update.
DROP INDEX capsaga.saga_open;
CREATE INDEX saga_status ON capsaga.saga (status, created_at, id);
CREATE INDEX saga_error ON capsaga.saga (error_class, created_at, id) WHERE error_class IS NOT NULL;
-- Its short list of entries to come costs a commit a third of what the tree would.
CREATE INDEX saga_entities ON capsaga.saga USING gin (entities) WITH (gin_pending_list_limit = 256);
CREATE INDEX saga_unlabelled ON capsaga.saga (id) WHERE entities IS NULL;

-- What was done to a saga's rows after its commit, each in one transaction with
-- the rows: its edits, and at most one undo.
CREATE TABLE capsaga.change (
    saga_id    text NOT NULL REFERENCES capsaga.saga ON DELETE CASCADE,
    kind       text NOT NULL,        -- edit or undo
    request    text NOT NULL,        -- the edit's request id; empty for the undo
    content    text NOT NULL,        -- digest of the edit's mutations
    mutations  json,                 -- of an edit
    undo       json,                 -- of an edit: as in capsaga.saga
    version    bigint NOT NULL,
    result     json NOT NULL,        -- all owned rows with their etags
    expected   json,                 -- of an edit: the etags by which an undo knows the rows as the saga's
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (saga_id, kind, request)
);

-- Steps that were given up: sinks that are not to get a saga's rows.
CREATE TABLE capsaga.waiver (
    saga_id    text NOT NULL REFERENCES capsaga.saga ON DELETE CASCADE,
    step       text NOT NULL,
    version    bigint NOT NULL,
    rows       json NOT NULL,        -- entity, key and etag of each
    reason     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (saga_id, step)
);

-- Why the last try to undo a saga was refused.
CREATE TABLE capsaga.conflict (
    saga_id    text PRIMARY KEY REFERENCES capsaga.saga ON DELETE CASCADE,
    conflicts  json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- +goose Down
DROP TABLE capsaga.conflict;
DROP TABLE capsaga.waiver;
DROP TABLE capsaga.change;
DROP INDEX capsaga.saga_unlabelled, capsaga.saga_entities, capsaga.saga_error, capsaga.saga_status;
ALTER TABLE capsaga.saga DROP COLUMN undo, DROP COLUMN entities, DROP COLUMN blocked_on, DROP COLUMN error_class, DROP COLUMN error;
CREATE INDEX saga_open ON capsaga.saga (created_at) WHERE finished_at IS NULL;
