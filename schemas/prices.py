"""Entries of the price book, as the `prices` topic holds them: what a price is, from when on, and since when we know.

The book is bitemporal. *Valid time* says when a price applies to requests; *recorded time* says when the book learned
it. An entry is never changed and never deleted: its id is a digest of all the rest, so that another content is another
entry. A later entry of the same series ends what the earlier one says, and both stay readable.
"""

from __future__ import annotations

import enum
import hashlib

import msgspec

from schemas.money import Price

ANY = "*"
STANDARD = "standard"
"""What a discount calls the service tier that has no name."""
REQUEST = "request"
"""What a discount calls the price of a request itself."""
PPM = 1_000_000
DAY_MINUTES = 24 * 60


class Kind(enum.StrEnum):
    """Whose word a price is."""

    LIST = "list"
    """A published list's; imported."""
    SELF_HOSTED = "self-hosted"
    """Our own, for a model that we run."""
    OVERRIDE = "override"
    """Our own, in place of the list's."""
    CONTRACT = "contract"
    """Negotiated."""
    POLICY = "policy"
    """That of `models.NAME.price` in the policy document; recorded when the document is applied."""


class Discount(msgspec.Struct, frozen=True, omit_defaults=True):
    """A percentage off the list price, of everything or of some classes, units and service tiers."""

    off_ppm: int
    """Parts per million: 150,000 is 15 %."""
    of: tuple[str, ...] = ()
    """Token classes of `Rates`, units of `schemas.units`, or `request`; empty for all."""
    service_tiers: tuple[str, ...] = ()
    """`standard`, `flex`, `batch`, …; empty for all. Units and requests have none, and are in `standard`."""


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """Discounts from a month's use on: all of that month's use has them."""

    above: int
    """The use that has to be exceeded: tokens, or nano-USD at list prices."""
    discounts: tuple[Discount, ...]


class Volume(msgspec.Struct, frozen=True, omit_defaults=True):
    """Discounts that depend on the use of a calendar month in UTC; settled when the month is over."""

    by: str
    """`tokens` or `usd`."""
    steps: tuple[Step, ...]
    """By ascending `above`."""

    def step(self, use: int | None) -> Step | None:
        """Return the highest step that a month's use has reached; None if it has reached none, or is not known."""
        reached = [step for step in self.steps if use is not None and use > step.above]
        return reached[-1] if reached else None


class Daily(msgspec.Struct, frozen=True, omit_defaults=True):
    """Another price for some hours of every day."""

    from_minute: int
    """Of the day in UTC; the first that it applies to."""
    to_minute: int
    """The first that it does not apply to any more; up to `from_minute` it is of the next day."""
    price: Price

    def holds(self, at_ms: int) -> bool:
        """Tell whether `at_ms` is within these hours."""
        minute = at_ms // 60_000 % DAY_MINUTES
        if self.from_minute < self.to_minute:
            return self.from_minute <= minute < self.to_minute
        return minute >= self.from_minute or minute < self.to_minute


class PriceEntry(msgspec.Struct, frozen=True, tag_field="schema", tag="tollway.price/1", omit_defaults=True):
    """One entry. It says an absolute price, or discounts off the list price, or (neither) that there is none."""

    id: str
    """Twelve hex digits of the digest of all the rest."""
    kind: str
    """A `Kind`."""
    provider: str
    """A provider of the policy by name; a glob for many."""
    model: str
    """The served model; a glob for many."""
    valid_from_ms: int
    """The first request it applies to, unix ms; 0 for always."""
    recorded_ms: int
    recorded_by: str
    org: str = ""
    """Empty: for the whole deployment."""
    name: str = ""
    """The model's name in the policy, where the price is of that name only."""
    valid_to_ms: int | None = None
    """The first moment it does not apply to any more; None: until another entry begins."""
    price: Price | None = None
    """Its own source and version say where it is from."""
    daily: tuple[Daily, ...] = ()
    """Hours of the day with another price; of those that hold, the last counts."""
    discounts: tuple[Discount, ...] = ()
    """Of those that match, the first counts."""
    volume: Volume | None = None
    sha256: str = ""
    """Of the data that it was imported from."""
    reason: str = ""

    @property
    def is_withdrawal(self) -> bool:
        """Whether it says that there is no price from `valid_from_ms` on."""
        return self.price is None and not self.discounts and self.volume is None

    @property
    def series(self) -> tuple[str, str, str, str, str]:
        """What it is a version of: (kind, org, provider, model, name)."""
        return self.kind, self.org, self.provider, self.model, self.name

    @property
    def version(self) -> str:
        """What events that are priced by it say."""
        return f"{self.kind}#{self.id}" if self.price is None else self._said(self.price)

    def price_at(self, at_ms: int) -> Price | None:
        """Return the absolute price at a moment within its validity, with the version that events are to say."""
        found = self.price
        for daily in self.daily:
            if daily.holds(at_ms):
                found = daily.price
        return None if found is None else msgspec.structs.replace(found, version=self._said(found))

    def _said(self, price: Price) -> str:
        return f"{price.version or self.kind}#{self.id}"

    def sealed(self) -> PriceEntry:
        """Return this entry with its id."""
        bare = msgspec.structs.replace(self, id="")
        return msgspec.structs.replace(self, id=hashlib.sha256(msgspec.json.encode(bare)).hexdigest()[:12])
