-- +goose Up
-- What the stream to Kafka knows of its topics: whose changes a topic has, by
-- which columns its records are keyed, and whether it refuses them.
CREATE TABLE capsaga.topic (
    slot        text NOT NULL,
    topic       text NOT NULL,
    table_name  text NOT NULL,          -- schema.table; empty for the topic of transactions
    key         text[] NOT NULL,        -- in the order of the records' keys; empty without a key
    diverted_at timestamptz,            -- since when its records are parked; null: they are not
    reason      text,                   -- why
    position    bigint,                 -- the offset in the parked topic behind what was brought back
    drain_at    timestamptz,            -- when someone asked to bring them back
    drain_error text,                   -- why the last try to did not succeed
    PRIMARY KEY (slot, topic)
);

-- +goose Down
DROP TABLE capsaga.topic;
