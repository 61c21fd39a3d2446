-- +goose Up
-- What is known of each slot, by which the next holder tells that its slot is no
-- longer the one that was read before.
ALTER TABLE capsaga.stream
    ADD COLUMN system_identifier bigint,      -- of the cluster that the slot was last held in
    ADD COLUMN bound         pg_lsn,          -- up to here an even position is a holder's; null: never created nor held
    ADD COLUMN confirmed     pg_lsn,          -- at least this was confirmed
    ADD COLUMN oldest_at     timestamptz,     -- commit time of the oldest transaction that waits, when it is worth a word
    ADD COLUMN lost          text,            -- why the slot had to be made anew, until its next holder takes note
    ADD COLUMN retired_at    timestamptz,     -- apply dropped the slot, as no entity needs the stream
    -- The last gap. It is open until a backfill was asked for.
    ADD COLUMN gap_from      pg_lsn,
    ADD COLUMN gap_to        pg_lsn,
    ADD COLUMN gap_floor     bigint,          -- a version: what a sink has below it may have been deleted meanwhile
    ADD COLUMN gap_reason    text,
    ADD COLUMN gap_at        timestamptz,
    ADD COLUMN gap_closed_at timestamptz;

-- +goose Down
ALTER TABLE capsaga.stream
    DROP COLUMN system_identifier, DROP COLUMN bound, DROP COLUMN confirmed, DROP COLUMN oldest_at,
    DROP COLUMN lost, DROP COLUMN retired_at, DROP COLUMN gap_from, DROP COLUMN gap_to, DROP COLUMN gap_floor,
    DROP COLUMN gap_reason, DROP COLUMN gap_at, DROP COLUMN gap_closed_at;
