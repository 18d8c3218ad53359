CREATE TABLE installation (
    id INTEGER NOT NULL,
    uuid VARCHAR(36) NOT NULL,
    key_fingerprints TEXT NOT NULL,
    min_reader VARCHAR(16) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT one_row CHECK (id = 1)
);

ALTER TABLE lease ADD COLUMN seconds FLOAT;

ALTER TABLE route ADD COLUMN retired_at DATETIME;

ALTER TABLE replica_model ADD COLUMN cause VARCHAR(16);

ALTER TABLE replica ADD COLUMN lease_s FLOAT;

ALTER TABLE version ADD COLUMN bundle_removed_at DATETIME;

CREATE TABLE rollout_with_waiting (
    id VARCHAR(64) NOT NULL,
    service VARCHAR(200) NOT NULL,
    strategy VARCHAR(16) NOT NULL,
    from_version VARCHAR(200) NOT NULL,
    to_version VARCHAR(200) NOT NULL,
    "plan" TEXT NOT NULL,
    phase VARCHAR(16) NOT NULL,
    step INTEGER NOT NULL,
    since DATETIME NOT NULL,
    deadline DATETIME NOT NULL,
    reason TEXT NOT NULL,
    abort_requested TEXT,
    forced BOOLEAN NOT NULL,
    requested_by VARCHAR(200) NOT NULL,
    requested_why TEXT NOT NULL,
    requested_at DATETIME NOT NULL,
    ended_at DATETIME,
    PRIMARY KEY (id),
    CONSTRAINT known_phase CHECK (phase IN ('waiting', 'pending', 'loading', 'gate', 'step', 'promoted', 'reverted', 'rollback', 'done', 'failed')),
    CONSTRAINT rolls_out_another CHECK (from_version <> to_version),
    FOREIGN KEY(from_version) REFERENCES version (model_id),
    FOREIGN KEY(to_version) REFERENCES version (model_id)
);

INSERT INTO rollout_with_waiting (id, service, strategy, from_version, to_version, "plan", phase, step, since, deadline, reason, abort_requested, forced, requested_by, requested_why, requested_at, ended_at) SELECT id, service, strategy, from_version, to_version, "plan", phase, step, since, deadline, reason, abort_requested, forced, requested_by, requested_why, requested_at, ended_at FROM rollout;

DROP TABLE rollout;

ALTER TABLE rollout_with_waiting RENAME TO rollout;

CREATE INDEX rollout_by_service ON rollout (service, requested_at);

CREATE UNIQUE INDEX one_open_rollout ON rollout (service) WHERE phase NOT IN ('waiting', 'done', 'failed');

CREATE UNIQUE INDEX one_waiting_rollout ON rollout (service) WHERE phase = 'waiting';
