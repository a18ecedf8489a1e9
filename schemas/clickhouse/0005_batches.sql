-- The batch that brought a row: the intent of the sink, in the same atomic insert as the rows. If the consumer group has
-- lost its offsets, this says which range of the log may be there in part. -1: of a row from before.
ALTER TABLE usage_events
    ADD COLUMN IF NOT EXISTS batch_first Int64 DEFAULT -1 COMMENT 'first offset of its batch' CODEC(Delta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS batch_last  Int64 DEFAULT -1 COMMENT 'last offset of its batch' CODEC(Delta, ZSTD(1));

ALTER TABLE enforcement_decisions
    ADD COLUMN IF NOT EXISTS batch_first Int64 DEFAULT -1 COMMENT 'first offset of its batch' CODEC(Delta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS batch_last  Int64 DEFAULT -1 COMMENT 'last offset of its batch' CODEC(Delta, ZSTD(1));

DROP VIEW IF EXISTS usage;

CREATE VIEW IF NOT EXISTS usage AS
SELECT *, input_tokens, output_tokens
FROM usage_events FINAL;

DROP VIEW IF EXISTS decisions;

CREATE VIEW IF NOT EXISTS decisions AS
SELECT * FROM enforcement_decisions FINAL;
