-- Everything an event can say: image tokens, what is billed beside tokens, tiers, flags, folds and corrections.
-- Older rows keep the defaults, and their sums. Nothing may be inserted while this runs: the history does it before it
-- reads the log.
ALTER TABLE usage_events
    ADD COLUMN IF NOT EXISTS tokens_image_input  Int64 CODEC(T64, ZSTD(1)) AFTER tokens_audio_output,
    ADD COLUMN IF NOT EXISTS tokens_image_output Int64 CODEC(T64, ZSTD(1)) AFTER tokens_image_input,
    ADD COLUMN IF NOT EXISTS units               Map(LowCardinality(String), Int64) COMMENT 'billed beside tokens',
    ADD COLUMN IF NOT EXISTS service_tier        LowCardinality(String) COMMENT 'served it, if it has prices of its own',
    ADD COLUMN IF NOT EXISTS list_cost_usd       Nullable(Decimal(18, 9)) COMMENT 'at list prices, where the cost is at others' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS flags               Array(LowCardinality(String)) COMMENT 'what was odd about the usage',
    ADD COLUMN IF NOT EXISTS kind                LowCardinality(String) DEFAULT 'usage',
    ADD COLUMN IF NOT EXISTS stands_for          Int64 DEFAULT 1 COMMENT 'events folded into this one, or corrected by it' CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS corrects_id         UUID COMMENT 'of an adjustment; all zeros where it corrects a sum' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS note                String COMMENT 'why it was adjusted' CODEC(ZSTD(1));

ALTER TABLE usage_events
    MODIFY COLUMN IF EXISTS input_tokens Int64 ALIAS tokens_input + tokens_cache_read + tokens_cache_write
        + tokens_cache_write_1h + tokens_audio_input + tokens_image_input;

ALTER TABLE usage_events
    MODIFY COLUMN IF EXISTS output_tokens Int64 ALIAS tokens_output + tokens_reasoning + tokens_audio_output
        + tokens_image_output;

-- Of the events: `adjustments` are corrections of costs, `first_priced_events` those corrections that gave a cost to
-- what had none. `discount_usd` is list price less cost where both are known and differ.
ALTER TABLE usage_hourly
    ADD COLUMN IF NOT EXISTS tokens_image_input  SimpleAggregateFunction(sum, Int64),
    ADD COLUMN IF NOT EXISTS tokens_image_output SimpleAggregateFunction(sum, Int64),
    ADD COLUMN IF NOT EXISTS adjustments         SimpleAggregateFunction(sum, Int64),
    ADD COLUMN IF NOT EXISTS first_priced_events SimpleAggregateFunction(sum, Int64),
    ADD COLUMN IF NOT EXISTS adjusted_usd        SimpleAggregateFunction(sum, Decimal(38, 9)),
    ADD COLUMN IF NOT EXISTS discount_usd        SimpleAggregateFunction(sum, Decimal(38, 9));

ALTER TABLE usage_daily_actor
    ADD COLUMN IF NOT EXISTS tokens_image_input  SimpleAggregateFunction(sum, Int64),
    ADD COLUMN IF NOT EXISTS tokens_image_output SimpleAggregateFunction(sum, Int64),
    ADD COLUMN IF NOT EXISTS adjustments         SimpleAggregateFunction(sum, Int64),
    ADD COLUMN IF NOT EXISTS first_priced_events SimpleAggregateFunction(sum, Int64),
    ADD COLUMN IF NOT EXISTS adjusted_usd        SimpleAggregateFunction(sum, Decimal(38, 9)),
    ADD COLUMN IF NOT EXISTS discount_usd        SimpleAggregateFunction(sum, Decimal(38, 9));

ALTER TABLE usage_hourly_feed MODIFY QUERY
SELECT
    toStartOfHour(toDateTime(e.occurred_at, 'UTC')) AS hour,
    e.org AS org, e.project AS project, e.team AS team, e.provider AS provider, e.model AS model,
    e.operation AS operation, e.status AS status, e.usage_source AS usage_source,
    sum(e.stands_for) AS events,
    sum(e.charge_requests) AS requests,
    sumIf(e.stands_for, e.cost_usd IS NOT NULL) AS priced_events,
    sumIf(e.stands_for, e.cost_usd IS NULL) AS unpriced_events,
    sumIf(e.charge_requests, e.cost_usd IS NULL) AS unpriced_requests,
    sum(e.tokens_input) AS tokens_input,
    sum(e.tokens_output) AS tokens_output,
    sum(e.tokens_cache_read) AS tokens_cache_read,
    sum(e.tokens_cache_write) AS tokens_cache_write,
    sum(e.tokens_cache_write_1h) AS tokens_cache_write_1h,
    sum(e.tokens_reasoning) AS tokens_reasoning,
    sum(e.tokens_audio_input) AS tokens_audio_input,
    sum(e.tokens_audio_output) AS tokens_audio_output,
    sum(e.tokens_image_input) AS tokens_image_input,
    sum(e.tokens_image_output) AS tokens_image_output,
    sum(e.charge_tokens) AS charge_tokens,
    sum(ifNull(e.cost_usd, toDecimal64(0, 9))) AS cost_usd,
    sum(e.charge_usd) AS charge_usd,
    sumIf(e.stands_for, e.kind = 'adjustment') AS adjustments,
    sumIf(e.stands_for, e.kind = 'adjustment' AND has(e.flags, 'first_price')) AS first_priced_events,
    sumIf(ifNull(e.cost_usd, toDecimal64(0, 9)), e.kind = 'adjustment') AS adjusted_usd,
    sum(ifNull(e.list_cost_usd - e.cost_usd, toDecimal64(0, 9))) AS discount_usd
FROM usage_events AS e
GROUP BY hour, org, project, team, provider, model, operation, status, usage_source;

ALTER TABLE usage_daily_actor_feed MODIFY QUERY
SELECT
    toDate(e.occurred_at, 'UTC') AS day,
    e.org AS org, e.project AS project, e.team AS team, e.user AS user, e.key_id AS key_id,
    e.provider AS provider, e.model AS model,
    sum(e.stands_for) AS events,
    sum(e.charge_requests) AS requests,
    sumIf(e.stands_for, e.cost_usd IS NOT NULL) AS priced_events,
    sumIf(e.stands_for, e.cost_usd IS NULL) AS unpriced_events,
    sumIf(e.charge_requests, e.cost_usd IS NULL) AS unpriced_requests,
    sum(e.tokens_input) AS tokens_input,
    sum(e.tokens_output) AS tokens_output,
    sum(e.tokens_cache_read) AS tokens_cache_read,
    sum(e.tokens_cache_write) AS tokens_cache_write,
    sum(e.tokens_cache_write_1h) AS tokens_cache_write_1h,
    sum(e.tokens_reasoning) AS tokens_reasoning,
    sum(e.tokens_audio_input) AS tokens_audio_input,
    sum(e.tokens_audio_output) AS tokens_audio_output,
    sum(e.tokens_image_input) AS tokens_image_input,
    sum(e.tokens_image_output) AS tokens_image_output,
    sum(e.charge_tokens) AS charge_tokens,
    sum(ifNull(e.cost_usd, toDecimal64(0, 9))) AS cost_usd,
    sum(e.charge_usd) AS charge_usd,
    sumIf(e.stands_for, e.kind = 'adjustment') AS adjustments,
    sumIf(e.stands_for, e.kind = 'adjustment' AND has(e.flags, 'first_price')) AS first_priced_events,
    sumIf(ifNull(e.cost_usd, toDecimal64(0, 9)), e.kind = 'adjustment') AS adjusted_usd,
    sum(ifNull(e.list_cost_usd - e.cost_usd, toDecimal64(0, 9))) AS discount_usd
FROM usage_events AS e
GROUP BY day, org, project, team, user, key_id, provider, model;

-- The history's ledger by run and hour, to be compared with what replicas told and what the meter counted.
-- `digest` is the sum of the hashes of the ids, modulo 2^64: it differs where one event is there for another.
CREATE TABLE IF NOT EXISTS usage_ledger_hourly
(
    src_log        LowCardinality(String),
    src_topic      LowCardinality(String),
    src_partition  Int32,
    instance       LowCardinality(String),
    epoch          Int64,
    hour           DateTime('UTC'),
    rows           SimpleAggregateFunction(sum, Int64),
    events         SimpleAggregateFunction(sum, Int64),
    requests       SimpleAggregateFunction(sum, Int64),
    input_tokens   SimpleAggregateFunction(sum, Int64),
    output_tokens  SimpleAggregateFunction(sum, Int64),
    cost_usd       SimpleAggregateFunction(sum, Decimal(38, 9)),
    unpriced       SimpleAggregateFunction(sum, Int64),
    charge_usd     SimpleAggregateFunction(sum, Decimal(38, 9)),
    digest         SimpleAggregateFunction(sum, UInt64),
    first_seq      SimpleAggregateFunction(min, Int64),
    last_seq       SimpleAggregateFunction(max, Int64),
    first_offset   SimpleAggregateFunction(min, Int64),
    last_offset    SimpleAggregateFunction(max, Int64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (src_log, src_topic, src_partition, instance, epoch, hour)
TTL hour + INTERVAL 25 MONTH
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

DROP VIEW IF EXISTS usage_ledger_hourly_feed;

TRUNCATE TABLE IF EXISTS usage_ledger_hourly;

INSERT INTO usage_ledger_hourly
SELECT
    e.src_log, e.src_topic, e.src_partition, e.instance, e.epoch,
    toStartOfHour(toDateTime(e.occurred_at, 'UTC')) AS hour,
    toInt64(count()), sum(e.stands_for), sum(e.charge_requests),
    sum(e.tokens_input + e.tokens_cache_read + e.tokens_cache_write + e.tokens_cache_write_1h + e.tokens_audio_input
        + e.tokens_image_input),
    sum(e.tokens_output + e.tokens_reasoning + e.tokens_audio_output + e.tokens_image_output),
    sum(ifNull(e.cost_usd, toDecimal64(0, 9))), sumIf(e.stands_for, e.cost_usd IS NULL), sum(e.charge_usd),
    sum(cityHash64(e.id)), min(e.seq), max(e.seq), min(e.src_offset), max(e.src_offset)
FROM usage_events AS e FINAL
GROUP BY e.src_log, e.src_topic, e.src_partition, e.instance, e.epoch, hour
SETTINGS insert_deduplicate = 0, async_insert = 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS usage_ledger_hourly_feed TO usage_ledger_hourly AS
SELECT
    e.src_log AS src_log, e.src_topic AS src_topic, e.src_partition AS src_partition,
    e.instance AS instance, e.epoch AS epoch,
    toStartOfHour(toDateTime(e.occurred_at, 'UTC')) AS hour,
    toInt64(count()) AS rows,
    sum(e.stands_for) AS events,
    sum(e.charge_requests) AS requests,
    sum(e.tokens_input + e.tokens_cache_read + e.tokens_cache_write + e.tokens_cache_write_1h + e.tokens_audio_input
        + e.tokens_image_input) AS input_tokens,
    sum(e.tokens_output + e.tokens_reasoning + e.tokens_audio_output + e.tokens_image_output) AS output_tokens,
    sum(ifNull(e.cost_usd, toDecimal64(0, 9))) AS cost_usd,
    sumIf(e.stands_for, e.cost_usd IS NULL) AS unpriced,
    sum(e.charge_usd) AS charge_usd,
    sum(cityHash64(e.id)) AS digest,
    min(e.seq) AS first_seq,
    max(e.seq) AS last_seq,
    min(e.src_offset) AS first_offset,
    max(e.src_offset) AS last_offset
FROM usage_events AS e
GROUP BY src_log, src_topic, src_partition, instance, epoch, hour;

-- Analysts' views again, with the new columns. `events` are attempts; corrections are counted by themselves, and what
-- a correction has priced is not unpriced any more.
DROP VIEW IF EXISTS usage;

CREATE VIEW IF NOT EXISTS usage AS
SELECT *, input_tokens, output_tokens
FROM usage_events FINAL;

DROP VIEW IF EXISTS spend_hourly;

CREATE VIEW IF NOT EXISTS spend_hourly AS
SELECT
    r.hour AS hour, r.org AS org, r.project AS project, r.team AS team, r.provider AS provider, r.model AS model,
    r.operation AS operation, r.status AS status,
    sum(r.events) - sum(r.adjustments) AS events,
    sum(r.requests) AS requests,
    greatest(0, sum(r.unpriced_requests) - sum(r.first_priced_events)) AS unpriced_requests,
    sum(r.tokens_input + r.tokens_cache_read + r.tokens_cache_write + r.tokens_cache_write_1h + r.tokens_audio_input
        + r.tokens_image_input) AS input_tokens,
    sum(r.tokens_output + r.tokens_reasoning + r.tokens_audio_output + r.tokens_image_output) AS output_tokens,
    sum(r.tokens_cache_read) AS cache_read_tokens,
    if(sum(r.priced_events) = 0 AND sum(r.unpriced_requests) > 0, NULL, sum(r.cost_usd)) AS cost_usd,
    sum(r.charge_usd) AS charge_usd,
    sum(r.adjustments) AS adjustments,
    sum(r.adjusted_usd) AS adjusted_usd,
    sum(r.discount_usd) AS discount_usd
FROM usage_hourly AS r
GROUP BY hour, org, project, team, provider, model, operation, status;

DROP VIEW IF EXISTS spend_daily;

CREATE VIEW IF NOT EXISTS spend_daily AS
SELECT
    r.day AS day, r.org AS org, r.project AS project, r.team AS team, r.user AS user, r.key_id AS key_id,
    r.provider AS provider, r.model AS model,
    sum(r.events) - sum(r.adjustments) AS events,
    sum(r.requests) AS requests,
    greatest(0, sum(r.unpriced_requests) - sum(r.first_priced_events)) AS unpriced_requests,
    sum(r.tokens_input + r.tokens_cache_read + r.tokens_cache_write + r.tokens_cache_write_1h + r.tokens_audio_input
        + r.tokens_image_input) AS input_tokens,
    sum(r.tokens_output + r.tokens_reasoning + r.tokens_audio_output + r.tokens_image_output) AS output_tokens,
    sum(r.tokens_cache_read) AS cache_read_tokens,
    if(sum(r.priced_events) = 0 AND sum(r.unpriced_requests) > 0, NULL, sum(r.cost_usd)) AS cost_usd,
    sum(r.charge_usd) AS charge_usd,
    sum(r.adjustments) AS adjustments,
    sum(r.adjusted_usd) AS adjusted_usd,
    sum(r.discount_usd) AS discount_usd
FROM usage_daily_actor AS r
GROUP BY day, org, project, team, user, key_id, provider, model;
