-- +goose Up
-- A saga that its client commits while the workflow is being started has a token in
-- place of the run, until a worker has seen its workflow.
CREATE INDEX saga_early ON capsaga.saga (created_at) WHERE run_id LIKE 'early/%' AND finished_at IS NULL AND outcome IS NULL;

-- +goose Down
DROP INDEX capsaga.saga_early;
