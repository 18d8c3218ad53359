CREATE TABLE version (
    model_id VARCHAR(200) NOT NULL,
    service VARCHAR(200) NOT NULL,
    mlflow_version INTEGER NOT NULL,
    run_id VARCHAR(64) NOT NULL,
    model_type VARCHAR(64) NOT NULL,
    symbol VARCHAR(64) NOT NULL,
    status VARCHAR(16) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    bundle_uri TEXT NOT NULL,
    watermark VARCHAR(64) NOT NULL,
    trained_until TIMESTAMP WITHOUT TIME ZONE,
    recipe_digest VARCHAR(64) NOT NULL,
    claims_only BOOLEAN NOT NULL,
    report TEXT,
    metrics TEXT NOT NULL,
    notes TEXT NOT NULL,
    code_version VARCHAR(200) NOT NULL,
    created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    PRIMARY KEY (model_id),
    CONSTRAINT one_row_per_mlflow_version UNIQUE (service, mlflow_version),
    CONSTRAINT known_status CHECK (status IN ('training', 'refused', 'challenger', 'deployed', 'retired', 'failed'))
);

CREATE INDEX version_by_service ON version (service, status);

CREATE INDEX version_by_kind ON version (model_type, symbol);

CREATE TABLE route (
    service VARCHAR(200) NOT NULL,
    generation INTEGER NOT NULL,
    champion VARCHAR(200) NOT NULL,
    previous_champion VARCHAR(200),
    baseline VARCHAR(200) NOT NULL,
    created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    challenger VARCHAR(200),
    weight_bp INTEGER DEFAULT '0' NOT NULL,
    mirror_bp INTEGER DEFAULT '0' NOT NULL,
    salt VARCHAR(64) DEFAULT '' NOT NULL,
    only_replicas TEXT,
    valid_until FLOAT,
    PRIMARY KEY (service),
    CONSTRAINT route_challenger FOREIGN KEY(challenger) REFERENCES version (model_id),
    CONSTRAINT weight_is_a_share CHECK (weight_bp BETWEEN 0 AND 10000),
    CONSTRAINT mirror_is_a_share CHECK (mirror_bp BETWEEN 0 AND 10000),
    CONSTRAINT no_weight_on_nothing CHECK (challenger IS NOT NULL OR (weight_bp = 0 AND mirror_bp = 0)),
    CONSTRAINT a_challenger_is_another CHECK (challenger <> champion),
    FOREIGN KEY(champion) REFERENCES version (model_id),
    FOREIGN KEY(previous_champion) REFERENCES version (model_id),
    FOREIGN KEY(baseline) REFERENCES version (model_id)
);

CREATE TABLE route_history (
    service VARCHAR(200) NOT NULL,
    generation INTEGER NOT NULL,
    at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    champion VARCHAR(200) NOT NULL,
    previous_champion VARCHAR(200),
    challenger VARCHAR(200),
    weight_bp INTEGER NOT NULL,
    action VARCHAR(64) NOT NULL,
    actor VARCHAR(200) NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (service, generation)
);

CREATE INDEX route_history_by_time ON route_history (service, at);

CREATE TABLE ledger (
    id SERIAL NOT NULL,
    service VARCHAR(200) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    key VARCHAR(300) NOT NULL,
    study VARCHAR(200),
    number INTEGER,
    watermark VARCHAR(64),
    recipe_digest VARCHAR(64),
    alpha_spent FLOAT NOT NULL,
    at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT counted_once UNIQUE (service, kind, key)
);

CREATE INDEX ledger_by_time ON ledger (service, kind, at);

CREATE TABLE audit (
    id SERIAL NOT NULL,
    at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    actor VARCHAR(200) NOT NULL,
    action VARCHAR(64) NOT NULL,
    service VARCHAR(200) NOT NULL,
    subject VARCHAR(200) NOT NULL,
    reason TEXT NOT NULL,
    before TEXT,
    after TEXT,
    PRIMARY KEY (id)
);

CREATE INDEX audit_by_subject ON audit (service, subject, id);

CREATE TABLE lease (
    name VARCHAR(100) NOT NULL,
    holder VARCHAR(200) NOT NULL,
    term INTEGER NOT NULL,
    until FLOAT NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE rollout (
    id VARCHAR(64) NOT NULL,
    service VARCHAR(200) NOT NULL,
    strategy VARCHAR(16) NOT NULL,
    from_version VARCHAR(200) NOT NULL,
    to_version VARCHAR(200) NOT NULL,
    plan TEXT NOT NULL,
    phase VARCHAR(16) NOT NULL,
    step INTEGER NOT NULL,
    since TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    deadline TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    reason TEXT NOT NULL,
    abort_requested TEXT,
    forced BOOLEAN NOT NULL,
    requested_by VARCHAR(200) NOT NULL,
    requested_why TEXT NOT NULL,
    requested_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITHOUT TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT known_phase CHECK (phase IN ('pending', 'loading', 'gate', 'step', 'promoted', 'reverted', 'rollback', 'done', 'failed')),
    CONSTRAINT rolls_out_another CHECK (from_version <> to_version),
    FOREIGN KEY(from_version) REFERENCES version (model_id),
    FOREIGN KEY(to_version) REFERENCES version (model_id)
);

CREATE INDEX rollout_by_service ON rollout (service, requested_at);

CREATE UNIQUE INDEX one_open_rollout ON rollout (service) WHERE phase NOT IN ('done', 'failed');

CREATE TABLE rollout_event (
    rollout_id VARCHAR(64) NOT NULL,
    seq INTEGER NOT NULL,
    at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    from_phase VARCHAR(16),
    to_phase VARCHAR(16) NOT NULL,
    step INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    term INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (rollout_id, seq),
    FOREIGN KEY(rollout_id) REFERENCES rollout (id)
);

CREATE TABLE replica (
    id VARCHAR(100) NOT NULL,
    incarnation VARCHAR(64) NOT NULL,
    address VARCHAR(200) NOT NULL,
    state VARCHAR(16) NOT NULL,
    lease_until FLOAT NOT NULL,
    build VARCHAR(200) NOT NULL,
    memory_free BIGINT,
    started_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE replica_route (
    replica_id VARCHAR(100) NOT NULL,
    service VARCHAR(200) NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (replica_id, service),
    FOREIGN KEY(replica_id) REFERENCES replica (id) ON DELETE CASCADE
);

CREATE TABLE replica_model (
    replica_id VARCHAR(100) NOT NULL,
    model_id VARCHAR(200) NOT NULL,
    state VARCHAR(16) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    bytes BIGINT NOT NULL,
    load_ms FLOAT NOT NULL,
    error TEXT,
    inflight INTEGER NOT NULL,
    PRIMARY KEY (replica_id, model_id),
    FOREIGN KEY(replica_id) REFERENCES replica (id) ON DELETE CASCADE
);

CREATE TABLE evidence (
    service VARCHAR(200) NOT NULL,
    scope VARCHAR(200) NOT NULL,
    step INTEGER NOT NULL,
    source VARCHAR(16) NOT NULL,
    replica_id VARCHAR(100) NOT NULL,
    incarnation VARCHAR(64) NOT NULL,
    weight_bp INTEGER NOT NULL,
    champion_trials INTEGER NOT NULL,
    champion_faults INTEGER NOT NULL,
    challenger_trials INTEGER NOT NULL,
    challenger_faults INTEGER NOT NULL,
    detail TEXT NOT NULL,
    updated_at FLOAT NOT NULL,
    PRIMARY KEY (service, scope, step, source, replica_id, incarnation)
);

CREATE TABLE traffic (
    service VARCHAR(200) NOT NULL,
    model_id VARCHAR(200) NOT NULL,
    replica_id VARCHAR(100) NOT NULL,
    incarnation VARCHAR(64) NOT NULL,
    hour TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    requests INTEGER NOT NULL,
    faults INTEGER NOT NULL,
    turned_away INTEGER NOT NULL,
    seconds FLOAT NOT NULL,
    latencies TEXT NOT NULL,
    PRIMARY KEY (service, model_id, replica_id, incarnation, hour)
);

CREATE INDEX traffic_by_hour ON traffic (hour);

CREATE TABLE forecast (
    service VARCHAR(200) NOT NULL,
    bar TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    model_id VARCHAR(200) NOT NULL,
    role VARCHAR(16) NOT NULL,
    value FLOAT NOT NULL,
    low FLOAT,
    high FLOAT,
    made_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    generation INTEGER NOT NULL,
    replica_id VARCHAR(100) NOT NULL,
    bars_digest VARCHAR(64) NOT NULL,
    PRIMARY KEY (service, bar, model_id)
);

CREATE UNIQUE INDEX one_forecast_of_record ON forecast (service, bar) WHERE role = 'record';

CREATE TABLE outcome (
    service VARCHAR(200) NOT NULL,
    bar TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    known_at TIMESTAMP WITHOUT TIME ZONE,
    value FLOAT,
    first_value FLOAT,
    persistence FLOAT,
    baseline FLOAT,
    next_return FLOAT,
    revisions INTEGER NOT NULL,
    matched_at TIMESTAMP WITHOUT TIME ZONE,
    revised_at TIMESTAMP WITHOUT TIME ZONE,
    missing_at TIMESTAMP WITHOUT TIME ZONE,
    PRIMARY KEY (service, bar),
    CONSTRAINT known_or_missing CHECK (value IS NOT NULL OR missing_at IS NOT NULL)
);

CREATE TABLE alert (
    id VARCHAR(64) NOT NULL,
    key VARCHAR(500) NOT NULL,
    condition VARCHAR(32) NOT NULL,
    severity VARCHAR(16) NOT NULL,
    service VARCHAR(200) NOT NULL,
    subject VARCHAR(200) NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    detail TEXT NOT NULL,
    raised_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    last_seen_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    told_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    times_seen INTEGER NOT NULL,
    recovered_at TIMESTAMP WITHOUT TIME ZONE,
    PRIMARY KEY (id)
);

CREATE UNIQUE INDEX one_lasting_alert ON alert (key) WHERE recovered_at IS NULL;

CREATE INDEX alert_by_service ON alert (service, raised_at);

CREATE TABLE alert_notice (
    id SERIAL NOT NULL,
    alert_id VARCHAR(64) NOT NULL,
    occasion VARCHAR(16) NOT NULL,
    at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    text TEXT NOT NULL,
    written_at FLOAT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(alert_id) REFERENCES alert (id)
);

CREATE INDEX notice_by_alert ON alert_notice (alert_id);

CREATE INDEX notice_by_time ON alert_notice (written_at);

CREATE TABLE alert_delivery (
    notice_id INTEGER NOT NULL,
    channel VARCHAR(200) NOT NULL,
    state VARCHAR(16) NOT NULL,
    attempts INTEGER NOT NULL,
    due FLOAT NOT NULL,
    claimed_until FLOAT NOT NULL,
    error TEXT NOT NULL,
    message VARCHAR(64),
    sent_at FLOAT,
    PRIMARY KEY (notice_id, channel),
    FOREIGN KEY(notice_id) REFERENCES alert_notice (id)
);

CREATE INDEX delivery_by_channel ON alert_delivery (channel, state);

CREATE TABLE training_trigger (
    id VARCHAR(64) NOT NULL,
    service VARCHAR(200) NOT NULL,
    cause VARCHAR(16) NOT NULL,
    watermark VARCHAR(100) NOT NULL,
    champion VARCHAR(200) NOT NULL,
    text TEXT NOT NULL,
    verdict VARCHAR(64),
    detail TEXT NOT NULL,
    raised_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    state VARCHAR(16) NOT NULL,
    attempts INTEGER NOT NULL,
    claim VARCHAR(64),
    claimed_by VARCHAR(200),
    claimed_at TIMESTAMP WITHOUT TIME ZONE,
    claimed_until FLOAT,
    answer VARCHAR(16),
    model_id VARCHAR(200),
    answered_at TIMESTAMP WITHOUT TIME ZONE,
    not_before TIMESTAMP WITHOUT TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT one_trigger_per_watermark UNIQUE (service, cause, watermark)
);

CREATE INDEX trigger_by_state ON training_trigger (state, service);

CREATE TABLE drift_check (
    id VARCHAR(64) NOT NULL,
    service VARCHAR(200) NOT NULL,
    model_id VARCHAR(200) NOT NULL,
    bar TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    recommendation VARCHAR(32) NOT NULL,
    official BOOLEAN NOT NULL,
    report TEXT NOT NULL,
    performance TEXT,
    state TEXT NOT NULL,
    bars TEXT,
    PRIMARY KEY (id),
    CONSTRAINT one_check_a_bar UNIQUE (service, model_id, bar)
);

CREATE TABLE watch (
    id VARCHAR(64) NOT NULL,
    service VARCHAR(200) NOT NULL,
    model_id VARCHAR(200) NOT NULL,
    interval_hours FLOAT NOT NULL,
    since TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    started_by VARCHAR(200) NOT NULL,
    stopped_at TIMESTAMP WITHOUT TIME ZONE,
    stopped_by VARCHAR(200),
    PRIMARY KEY (id),
    FOREIGN KEY(model_id) REFERENCES version (model_id)
);

CREATE UNIQUE INDEX one_watch_a_version ON watch (model_id) WHERE stopped_at IS NULL;

CREATE FUNCTION mlops_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; END
$$;

CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION mlops_append_only();

CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
FOR EACH STATEMENT EXECUTE FUNCTION mlops_append_only();

CREATE TRIGGER route_history_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON route_history
FOR EACH STATEMENT EXECUTE FUNCTION mlops_append_only();

CREATE TRIGGER rollout_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rollout_event
FOR EACH STATEMENT EXECUTE FUNCTION mlops_append_only();
