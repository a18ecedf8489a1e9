-- The ledger of usage: one row per terminal event, never updated. Names are relative to the deployment's database.
--
-- A record of the log is inserted once: batches carry a deduplication token, and the window below makes the engine
-- drop a batch that is sent again, here and in every rollup. ReplacingMergeTree is the second line: whatever arrives
-- twice in another batch after all is one row under FINAL. Read through the view `usage`.
CREATE TABLE IF NOT EXISTS usage_events
(
    id                     UUID,
    request_id             UUID COMMENT 'shared by the attempts of one request',
    attempt                UInt16,
    occurred_at            DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'admission',
    status                 LowCardinality(String),
    operation              LowCardinality(String),
    org                    LowCardinality(String),
    project                LowCardinality(String),
    team                   LowCardinality(String),
    user                   String CODEC(ZSTD(1)),
    key_id                 LowCardinality(String),
    provider               LowCardinality(String),
    model                  LowCardinality(String) COMMENT 'as served: what limits match and prices apply to',
    model_requested        String CODEC(ZSTD(1)),
    model_reported         String CODEC(ZSTD(1)),
    tags                   Map(LowCardinality(String), String),
    policy_version         Int64 CODEC(T64, ZSTD(1)),
    price_version          LowCardinality(String),

    usage_source           LowCardinality(String),
    -- Disjoint classes; their sum is what the provider counted.
    tokens_input           Int64 CODEC(T64, ZSTD(1)),
    tokens_output          Int64 CODEC(T64, ZSTD(1)),
    tokens_cache_read      Int64 CODEC(T64, ZSTD(1)),
    tokens_cache_write     Int64 CODEC(T64, ZSTD(1)),
    tokens_cache_write_1h  Int64 CODEC(T64, ZSTD(1)),
    tokens_reasoning       Int64 CODEC(T64, ZSTD(1)),
    tokens_audio_input     Int64 CODEC(T64, ZSTD(1)),
    tokens_audio_output    Int64 CODEC(T64, ZSTD(1)),
    input_tokens           Int64 ALIAS tokens_input + tokens_cache_read + tokens_cache_write + tokens_cache_write_1h
                                       + tokens_audio_input,
    output_tokens          Int64 ALIAS tokens_output + tokens_reasoning + tokens_audio_output,

    cost_usd               Nullable(Decimal(18, 9)) CODEC(ZSTD(1)) COMMENT 'NULL: price or usage unknown; 0: free',
    charge_requests        Int64 CODEC(T64, ZSTD(1)),
    charge_tokens          Int64 CODEC(T64, ZSTD(1)),
    charge_usd             Decimal(18, 9) CODEC(ZSTD(1)) COMMENT 'what limits were charged: the cost, or the reserve',

    duration_ms            Int64 CODEC(T64, ZSTD(1)),
    ttft_ms                Nullable(Int64) CODEC(T64, ZSTD(1)) COMMENT 'first byte of the answer; NULL without one',
    http_status            UInt16,
    streamed               Bool,
    error                  LowCardinality(String),
    decision_id            UUID COMMENT 'the refusal; all zeros if there is none',
    row_keys               Array(LowCardinality(String)) COMMENT 'rows of limits and budgets it was charged to',

    -- Where it is in the log.
    instance               LowCardinality(String),
    epoch                  Int64 CODEC(T64, ZSTD(1)),
    seq                    Int64 CODEC(Delta, ZSTD(1)),
    src_log                LowCardinality(String) COMMENT 'the Kafka cluster, or the log id of the settings',
    src_topic              LowCardinality(String),
    src_partition          Int32 CODEC(T64, ZSTD(1)),
    src_offset             Int64 CODEC(Delta, ZSTD(1)),
    src_index              Int32 CODEC(T64, ZSTD(1)) COMMENT 'place within the record',
    logged_at              DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    ingested_at            DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1)),

    -- More of these would cost a quarter of the rate of inserts.
    INDEX ix_request       request_id TYPE bloom_filter(0.02) GRANULARITY 2,
    INDEX ix_offset        src_offset TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(occurred_at)
PRIMARY KEY (org, project, toStartOfHour(occurred_at))
ORDER BY (org, project, toStartOfHour(occurred_at), team, model, id)
TTL toDateTime(occurred_at) + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- By the hour, without users and keys: with them it would hardly be smaller than the ledger.
CREATE TABLE IF NOT EXISTS usage_hourly
(
    hour                   DateTime('UTC'),
    org                    LowCardinality(String),
    project                LowCardinality(String),
    team                   LowCardinality(String),
    provider               LowCardinality(String),
    model                  LowCardinality(String),
    operation              LowCardinality(String),
    status                 LowCardinality(String),
    usage_source           LowCardinality(String),
    events                 SimpleAggregateFunction(sum, Int64),
    requests               SimpleAggregateFunction(sum, Int64),
    priced_events          SimpleAggregateFunction(sum, Int64),
    unpriced_events        SimpleAggregateFunction(sum, Int64),
    unpriced_requests      SimpleAggregateFunction(sum, Int64),
    tokens_input           SimpleAggregateFunction(sum, Int64),
    tokens_output          SimpleAggregateFunction(sum, Int64),
    tokens_cache_read      SimpleAggregateFunction(sum, Int64),
    tokens_cache_write     SimpleAggregateFunction(sum, Int64),
    tokens_cache_write_1h  SimpleAggregateFunction(sum, Int64),
    tokens_reasoning       SimpleAggregateFunction(sum, Int64),
    tokens_audio_input     SimpleAggregateFunction(sum, Int64),
    tokens_audio_output    SimpleAggregateFunction(sum, Int64),
    charge_tokens          SimpleAggregateFunction(sum, Int64),
    cost_usd               SimpleAggregateFunction(sum, Decimal(38, 9)),
    charge_usd             SimpleAggregateFunction(sum, Decimal(38, 9))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (org, project, hour, team, provider, model, operation, status, usage_source)
TTL hour + INTERVAL 25 MONTH
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS usage_hourly_feed TO usage_hourly AS
SELECT
    toStartOfHour(toDateTime(e.occurred_at, 'UTC')) AS hour,
    e.org AS org, e.project AS project, e.team AS team, e.provider AS provider, e.model AS model,
    e.operation AS operation, e.status AS status, e.usage_source AS usage_source,
    toInt64(count()) AS events,
    sum(e.charge_requests) AS requests,
    toInt64(countIf(e.cost_usd IS NOT NULL)) AS priced_events,
    toInt64(countIf(e.cost_usd IS NULL)) AS unpriced_events,
    sumIf(e.charge_requests, e.cost_usd IS NULL) AS unpriced_requests,
    sum(e.tokens_input) AS tokens_input,
    sum(e.tokens_output) AS tokens_output,
    sum(e.tokens_cache_read) AS tokens_cache_read,
    sum(e.tokens_cache_write) AS tokens_cache_write,
    sum(e.tokens_cache_write_1h) AS tokens_cache_write_1h,
    sum(e.tokens_reasoning) AS tokens_reasoning,
    sum(e.tokens_audio_input) AS tokens_audio_input,
    sum(e.tokens_audio_output) AS tokens_audio_output,
    sum(e.charge_tokens) AS charge_tokens,
    sum(ifNull(e.cost_usd, toDecimal64(0, 9))) AS cost_usd,
    sum(e.charge_usd) AS charge_usd
FROM usage_events AS e
GROUP BY hour, org, project, team, provider, model, operation, status, usage_source;

-- By the day, with users and keys: who spent it.
CREATE TABLE IF NOT EXISTS usage_daily_actor
(
    day                    Date,
    org                    LowCardinality(String),
    project                LowCardinality(String),
    team                   LowCardinality(String),
    user                   String,
    key_id                 LowCardinality(String),
    provider               LowCardinality(String),
    model                  LowCardinality(String),
    events                 SimpleAggregateFunction(sum, Int64),
    requests               SimpleAggregateFunction(sum, Int64),
    priced_events          SimpleAggregateFunction(sum, Int64),
    unpriced_events        SimpleAggregateFunction(sum, Int64),
    unpriced_requests      SimpleAggregateFunction(sum, Int64),
    tokens_input           SimpleAggregateFunction(sum, Int64),
    tokens_output          SimpleAggregateFunction(sum, Int64),
    tokens_cache_read      SimpleAggregateFunction(sum, Int64),
    tokens_cache_write     SimpleAggregateFunction(sum, Int64),
    tokens_cache_write_1h  SimpleAggregateFunction(sum, Int64),
    tokens_reasoning       SimpleAggregateFunction(sum, Int64),
    tokens_audio_input     SimpleAggregateFunction(sum, Int64),
    tokens_audio_output    SimpleAggregateFunction(sum, Int64),
    charge_tokens          SimpleAggregateFunction(sum, Int64),
    cost_usd               SimpleAggregateFunction(sum, Decimal(38, 9)),
    charge_usd             SimpleAggregateFunction(sum, Decimal(38, 9))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (org, project, day, team, user, key_id, provider, model)
TTL day + INTERVAL 25 MONTH
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS usage_daily_actor_feed TO usage_daily_actor AS
SELECT
    toDate(e.occurred_at, 'UTC') AS day,
    e.org AS org, e.project AS project, e.team AS team, e.user AS user, e.key_id AS key_id,
    e.provider AS provider, e.model AS model,
    toInt64(count()) AS events,
    sum(e.charge_requests) AS requests,
    toInt64(countIf(e.cost_usd IS NOT NULL)) AS priced_events,
    toInt64(countIf(e.cost_usd IS NULL)) AS unpriced_events,
    sumIf(e.charge_requests, e.cost_usd IS NULL) AS unpriced_requests,
    sum(e.tokens_input) AS tokens_input,
    sum(e.tokens_output) AS tokens_output,
    sum(e.tokens_cache_read) AS tokens_cache_read,
    sum(e.tokens_cache_write) AS tokens_cache_write,
    sum(e.tokens_cache_write_1h) AS tokens_cache_write_1h,
    sum(e.tokens_reasoning) AS tokens_reasoning,
    sum(e.tokens_audio_input) AS tokens_audio_input,
    sum(e.tokens_audio_output) AS tokens_audio_output,
    sum(e.charge_tokens) AS charge_tokens,
    sum(ifNull(e.cost_usd, toDecimal64(0, 9))) AS cost_usd,
    sum(e.charge_usd) AS charge_usd
FROM usage_events AS e
GROUP BY day, org, project, team, user, key_id, provider, model;

-- What analysts read: each event once, and rollups summed up.
CREATE VIEW IF NOT EXISTS usage AS
SELECT *, input_tokens, output_tokens
FROM usage_events FINAL;

CREATE VIEW IF NOT EXISTS spend_hourly AS
SELECT
    r.hour AS hour, r.org AS org, r.project AS project, r.team AS team, r.provider AS provider, r.model AS model,
    r.operation AS operation, r.status AS status,
    sum(r.events) AS events,
    sum(r.requests) AS requests,
    sum(r.unpriced_requests) AS unpriced_requests,
    sum(r.tokens_input + r.tokens_cache_read + r.tokens_cache_write + r.tokens_cache_write_1h + r.tokens_audio_input)
        AS input_tokens,
    sum(r.tokens_output + r.tokens_reasoning + r.tokens_audio_output) AS output_tokens,
    sum(r.tokens_cache_read) AS cache_read_tokens,
    if(sum(r.priced_events) = 0 AND sum(r.unpriced_requests) > 0, NULL, sum(r.cost_usd)) AS cost_usd,
    sum(r.charge_usd) AS charge_usd
FROM usage_hourly AS r
GROUP BY hour, org, project, team, provider, model, operation, status;

CREATE VIEW IF NOT EXISTS spend_daily AS
SELECT
    r.day AS day, r.org AS org, r.project AS project, r.team AS team, r.user AS user, r.key_id AS key_id,
    r.provider AS provider, r.model AS model,
    sum(r.events) AS events,
    sum(r.requests) AS requests,
    sum(r.unpriced_requests) AS unpriced_requests,
    sum(r.tokens_input + r.tokens_cache_read + r.tokens_cache_write + r.tokens_cache_write_1h + r.tokens_audio_input)
        AS input_tokens,
    sum(r.tokens_output + r.tokens_reasoning + r.tokens_audio_output) AS output_tokens,
    sum(r.tokens_cache_read) AS cache_read_tokens,
    if(sum(r.priced_events) = 0 AND sum(r.unpriced_requests) > 0, NULL, sum(r.cost_usd)) AS cost_usd,
    sum(r.charge_usd) AS charge_usd
FROM usage_daily_actor AS r
GROUP BY day, org, project, team, user, key_id, provider, model;
