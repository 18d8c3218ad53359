CREATE TABLE bar_file (
    id VARCHAR(64) NOT NULL,
    path TEXT NOT NULL,
    digest VARCHAR(64) NOT NULL,
    bars INTEGER NOT NULL,
    last_close TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    chunks TEXT NOT NULL,
    found TEXT NOT NULL,
    size BIGINT NOT NULL,
    modified_ns BIGINT NOT NULL,
    read_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE bar_chunk (
    file VARCHAR(64) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    content BYTEA NOT NULL,
    PRIMARY KEY (file, digest),
    FOREIGN KEY(file) REFERENCES bar_file (id)
);

CREATE TABLE market (
    service VARCHAR(200) NOT NULL,
    choice TEXT NOT NULL,
    file VARCHAR(64),
    since TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    PRIMARY KEY (service),
    FOREIGN KEY(file) REFERENCES bar_file (id)
);
