-- +goose Up
-- The transactions of batches. Their sagas are entered as completed, so that a batch
-- of hundreds writes each once; they count as committed while this says that their
-- batch is under way. A saga with an outcome of its own is as that says.
CREATE TABLE capsaga.batch (
    workflow_id text NOT NULL,
    version     bigint NOT NULL,      -- that of all its sagas
    ids         text[] NOT NULL,      -- its sagas; empty when it has finished
    steps       json,                 -- of each of its sagas, when it has finished
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    PRIMARY KEY (workflow_id, version)
);
CREATE INDEX batch_open ON capsaga.batch (created_at) WHERE finished_at IS NULL;
CREATE INDEX batch_finished ON capsaga.batch (finished_at) WHERE finished_at IS NOT NULL;

-- +goose Down
UPDATE capsaga.saga s SET status = 'committed', finished_at = NULL FROM capsaga.batch b
WHERE b.workflow_id = s.workflow_id AND b.version = s.version AND b.finished_at IS NULL AND s.outcome IS NULL;
DROP TABLE capsaga.batch;
