-- +goose Up
-- The cluster's id of the topic: one that was deleted and made again has the name of
-- the one before and none of its records.
ALTER TABLE capsaga.topic ADD COLUMN topic_id text NOT NULL DEFAULT ''; -- empty: not known

-- +goose Down
ALTER TABLE capsaga.topic DROP COLUMN topic_id;
