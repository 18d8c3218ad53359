ALTER TABLE version ADD COLUMN request_key VARCHAR(200);

ALTER TABLE version ADD COLUMN request_digest VARCHAR(64);

CREATE UNIQUE INDEX one_version_a_request ON version (request_key);

CREATE INDEX version_by_time ON version (created_at, model_id);

ALTER TABLE rollout ADD COLUMN request_key VARCHAR(200);

ALTER TABLE rollout ADD COLUMN request_digest VARCHAR(64);

CREATE UNIQUE INDEX one_rollout_a_request ON rollout (request_key);

CREATE INDEX rollout_by_time ON rollout (requested_at, id);

ALTER TABLE ab_test ADD COLUMN request_digest VARCHAR(64);

CREATE INDEX ab_test_by_time ON ab_test (requested_at, id);

CREATE INDEX alert_by_time ON alert (raised_at, id);

CREATE INDEX check_by_time ON drift_check (at, id);

CREATE INDEX trigger_by_time ON training_trigger (raised_at, id);

CREATE TABLE operation (
    id VARCHAR(64) NOT NULL,
    kind VARCHAR(32) NOT NULL,
    status VARCHAR(16) NOT NULL,
    request_key VARCHAR(200),
    request_digest VARCHAR(64),
    owner VARCHAR(200) NOT NULL,
    holder VARCHAR(200),
    held_until FLOAT,
    result TEXT,
    problem TEXT,
    created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    started_at TIMESTAMP WITHOUT TIME ZONE,
    ended_at TIMESTAMP WITHOUT TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT one_operation_a_request UNIQUE (request_key),
    CONSTRAINT known_operation_status CHECK (status IN ('pending', 'running', 'done', 'failed')),
    CONSTRAINT operation_ends_once CHECK ((status IN ('done', 'failed')) = (ended_at IS NOT NULL))
);

CREATE INDEX operation_by_time ON operation (created_at, id);
