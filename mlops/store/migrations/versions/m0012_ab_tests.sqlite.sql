CREATE TABLE ab_test (
    id VARCHAR(64) NOT NULL,
    service VARCHAR(200) NOT NULL,
    champion_id VARCHAR(200) NOT NULL,
    challenger_id VARCHAR(200) NOT NULL,
    champion_is VARCHAR(1) NOT NULL,
    name VARCHAR(200) NOT NULL,
    split_bp INTEGER NOT NULL,
    alpha FLOAT NOT NULL,
    since_bar DATETIME NOT NULL,
    min_until_bar DATETIME NOT NULL,
    until_bar DATETIME NOT NULL,
    record TEXT,
    promote BOOLEAN NOT NULL,
    state VARCHAR(16) NOT NULL,
    verdict VARCHAR(16),
    verdict_text TEXT,
    rollout_id VARCHAR(64) NOT NULL,
    request_key VARCHAR(200),
    requested_by VARCHAR(200) NOT NULL,
    requested_why TEXT NOT NULL,
    requested_at DATETIME NOT NULL,
    ended_at DATETIME,
    PRIMARY KEY (id),
    CONSTRAINT one_test_a_rollout UNIQUE (rollout_id),
    CONSTRAINT one_test_a_request UNIQUE (request_key),
    CONSTRAINT known_state CHECK (state IN ('running', 'concluded')),
    CONSTRAINT known_verdict CHECK (verdict IN ('better', 'worse', 'equivalent', 'inconclusive', 'invalid', 'stopped')),
    CONSTRAINT known_name CHECK (champion_is IN ('a', 'b')),
    CONSTRAINT split_is_a_share CHECK (split_bp BETWEEN 0 AND 9500),
    CONSTRAINT alpha_is_a_probability CHECK (alpha > 0 AND alpha < 1),
    CONSTRAINT tests_another CHECK (champion_id <> challenger_id),
    CONSTRAINT concluded_by_a_verdict CHECK ((state = 'running') = (verdict IS NULL) AND (verdict IS NULL) = (ended_at IS NULL)),
    FOREIGN KEY(champion_id) REFERENCES version (model_id),
    FOREIGN KEY(challenger_id) REFERENCES version (model_id),
    FOREIGN KEY(rollout_id) REFERENCES rollout (id)
);

CREATE UNIQUE INDEX one_running_test ON ab_test (service) WHERE state = 'running';

CREATE INDEX ab_test_by_service ON ab_test (service, requested_at);

CREATE TABLE ab_look (
    test_id VARCHAR(64) NOT NULL,
    bar DATETIME NOT NULL,
    at DATETIME NOT NULL,
    pairs INTEGER NOT NULL,
    mean FLOAT,
    variance FLOAT,
    variance_source VARCHAR(16),
    standard_error FLOAT,
    z FLOAT,
    low FLOAT,
    high FLOAT,
    relative_low FLOAT,
    relative_high FLOAT,
    p FLOAT NOT NULL,
    holes INTEGER NOT NULL,
    missing TEXT NOT NULL,
    dealt TEXT NOT NULL,
    word VARCHAR(16),
    detail TEXT NOT NULL,
    digest VARCHAR(64) NOT NULL,
    PRIMARY KEY (test_id, bar),
    FOREIGN KEY(test_id) REFERENCES ab_test (id)
);

CREATE TABLE forecast_gap (
    service VARCHAR(200) NOT NULL,
    bar DATETIME NOT NULL,
    model_id VARCHAR(200) NOT NULL,
    reason VARCHAR(16) NOT NULL,
    replica_id VARCHAR(100) NOT NULL,
    at DATETIME NOT NULL,
    PRIMARY KEY (service, bar, model_id)
);

CREATE TRIGGER ab_look_no_UPDATE BEFORE UPDATE ON ab_look
BEGIN SELECT RAISE(ABORT, 'ab_look is append-only'); END;

CREATE TRIGGER ab_look_no_DELETE BEFORE DELETE ON ab_look
BEGIN SELECT RAISE(ABORT, 'ab_look is append-only'); END;

CREATE TRIGGER ab_test_no_second_verdict BEFORE UPDATE ON ab_test WHEN OLD.verdict IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a verdict is written once'); END;

CREATE TRIGGER ab_test_no_DELETE BEFORE DELETE ON ab_test
BEGIN SELECT RAISE(ABORT, 'ab_test is never deleted from'); END;
