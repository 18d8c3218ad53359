CREATE TABLE installation (
    id INTEGER NOT NULL,
    uuid VARCHAR(36) NOT NULL,
    key_fingerprints TEXT NOT NULL,
    min_reader VARCHAR(16) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT one_row CHECK (id = 1)
);

ALTER TABLE lease ADD COLUMN seconds FLOAT;

ALTER TABLE route ADD COLUMN retired_at TIMESTAMP WITHOUT TIME ZONE;

ALTER TABLE replica_model ADD COLUMN cause VARCHAR(16);

ALTER TABLE replica ADD COLUMN lease_s FLOAT;

ALTER TABLE version ADD COLUMN bundle_removed_at TIMESTAMP WITHOUT TIME ZONE;

ALTER TABLE rollout DROP CONSTRAINT known_phase;

ALTER TABLE rollout ADD CONSTRAINT known_phase CHECK (phase IN ('waiting', 'pending', 'loading', 'gate', 'step', 'promoted', 'reverted', 'rollback', 'done', 'failed'));

DROP INDEX one_open_rollout;

CREATE UNIQUE INDEX one_open_rollout ON rollout (service) WHERE phase NOT IN ('waiting', 'done', 'failed');

CREATE UNIQUE INDEX one_waiting_rollout ON rollout (service) WHERE phase = 'waiting';
