-- Why requests were refused: one row per decision, with what the replica knew. Read through the view `decisions`.
CREATE TABLE IF NOT EXISTS enforcement_decisions
(
    id               UUID,
    request_id       UUID,
    decided_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    instance         LowCardinality(String),
    action           LowCardinality(String),
    reason           LowCardinality(String),
    org              LowCardinality(String),
    project          LowCardinality(String),
    team             LowCardinality(String),
    user             String CODEC(ZSTD(1)),
    key_id           LowCardinality(String),
    provider         LowCardinality(String),
    model            LowCardinality(String),
    model_requested  String CODEC(ZSTD(1)),
    tags             Map(LowCardinality(String), String),
    policy_version   Int64 CODEC(T64, ZSTD(1)),
    price_version    LowCardinality(String),
    rule             LowCardinality(String),
    measure          LowCardinality(String),
    scope            String CODEC(ZSTD(1)),
    row_key          String CODEC(ZSTD(1)) COMMENT 'the row that refused',
    -- In the unit of the measure: requests, tokens or nano-USD.
    limit_value      Int64 CODEC(T64, ZSTD(1)),
    used_value       Int64 CODEC(T64, ZSTD(1)),
    asked_value      Int64 CODEC(T64, ZSTD(1)),
    room_value       Int64 CODEC(T64, ZSTD(1)),
    overshoot_bound  Int64 CODEC(T64, ZSTD(1)),
    weight_num       Int64 CODEC(T64, ZSTD(1)),
    weight_den       Int64 CODEC(T64, ZSTD(1)),
    weight_off       Int64 CODEC(T64, ZSTD(1)),
    fence            Int64 CODEC(T64, ZSTD(1)) COMMENT 'offset up to which the replica knew the log',
    staleness_ms     Int64 CODEC(T64, ZSTD(1)),
    resets_at        DateTime('UTC'),
    retry_after_s    Int64 CODEC(T64, ZSTD(1)),
    src_log          LowCardinality(String),
    src_topic        LowCardinality(String),
    src_partition    Int32 CODEC(T64, ZSTD(1)),
    src_offset       Int64 CODEC(Delta, ZSTD(1)),
    src_index        Int32 CODEC(T64, ZSTD(1)),
    logged_at        DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    ingested_at      DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX ix_id      id         TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_request request_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(decided_at)
ORDER BY (org, toStartOfHour(decided_at), reason, id)
TTL toDateTime(decided_at) + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE VIEW IF NOT EXISTS decisions AS
SELECT * FROM enforcement_decisions FINAL;
