CREATE TABLE bar_file (
    id VARCHAR(64) NOT NULL,
    path TEXT NOT NULL,
    digest VARCHAR(64) NOT NULL,
    bars INTEGER NOT NULL,
    last_close DATETIME NOT NULL,
    chunks TEXT NOT NULL,
    found TEXT NOT NULL,
    size BIGINT NOT NULL,
    modified_ns BIGINT NOT NULL,
    read_at DATETIME NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE bar_chunk (
    file VARCHAR(64) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (file, digest),
    FOREIGN KEY(file) REFERENCES bar_file (id)
);

CREATE TABLE market (
    service VARCHAR(200) NOT NULL,
    choice TEXT NOT NULL,
    file VARCHAR(64),
    since DATETIME NOT NULL,
    PRIMARY KEY (service),
    FOREIGN KEY(file) REFERENCES bar_file (id)
);
