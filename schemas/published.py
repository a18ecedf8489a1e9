"""The numbers that Tollway publishes: help, status, metrics, refusals and docs print these and no others."""

HEARTBEAT_MS = 250
"""A replica and the meter each say at least this often that they live."""
LEASE_MS = 60_000
"""A replica that is silent on the log for this long loses its share to the others; one that comes back under a new
epoch replaces its old self at once."""
SELF_FENCE_MS = 54_000
"""A replica none of whose records the broker has acknowledged for this long stops admitting, because its share may be
given away. Until then it goes on with the room it has, broker or no broker."""
TICK_MS = 20
"""Usage is cut into records this often at most, and nearly at once where no record was cut for so long."""
PUBLISH_MS = 12
"""Changed rows are published this often."""
WAIT_MS = 250
"""A request that finds room everywhere but here waits this long for it, then it is refused."""
WAITING_PER_ROW = 256
"""More requests do not wait in one row."""
PROPAGATION_P99_MS = 150
"""Usage on one replica changes the room on every other within this time, 99 times of 100."""
REVOCATION_MS = 1_000
"""A revoked key is refused on every replica within this time."""
OVERRIDES_MS = 1_000
"""A changed limit, a temporary increase and its end, a freeze and its release are in force on every replica within this
time."""
DRAIN_S = 30
"""A stopping ingress lets running requests go on for this long."""
MOST_DRAINS = 256
"""So many answers at once are read on in an ingress though their clients have hung up; of more, usage is estimated."""
MAX_EVENTS_PER_RECORD = 256
CHANGELOG_MS = 500
"""Rows reach the compacted changelog this often; after a crash the log since then is folded again."""
OVERSHOOT_BOUND = "the sum over requests in flight of what they use beyond their reservation; 0 where it is a maximum"
