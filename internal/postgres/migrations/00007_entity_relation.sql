-- +goose Up
-- A table that was dropped and created again has the name of the one before and
-- none of its rows.
ALTER TABLE capsaga.entity ADD COLUMN relation oid;
UPDATE capsaga.entity e SET relation = c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = e.table_name;

-- +goose Down
ALTER TABLE capsaga.entity DROP COLUMN relation;
