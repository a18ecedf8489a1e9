-- Decisions of the whole ladder: what was done, by which right, and what it saved. Older rows keep the defaults.
ALTER TABLE enforcement_decisions
    ADD COLUMN IF NOT EXISTS log_partition    Int32 DEFAULT -1 COMMENT 'of usage, whose offsets fence counts' CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS epoch            Int64 COMMENT 'run of the instance' CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS tier             Int64 DEFAULT 1 CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS mode             LowCardinality(String) DEFAULT 'enforce',
    ADD COLUMN IF NOT EXISTS rung             LowCardinality(String),
    ADD COLUMN IF NOT EXISTS right_value      Int64 COMMENT 'what the replica might have in the row' CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS pending_value    Int64 COMMENT 'what it had there' CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS want_value       Int64 CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS seen_limit_value Int64 CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS waited_ms        Int64 CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS downgraded_to    LowCardinality(String),
    ADD COLUMN IF NOT EXISTS cost_avoided_usd Decimal(18, 9) COMMENT 'by the estimate of the request' CODEC(ZSTD(1));

DROP VIEW IF EXISTS decisions;

CREATE VIEW IF NOT EXISTS decisions AS
SELECT * FROM enforcement_decisions FINAL;
