"""Which entries a change of prices adds to the book, and what that changes: applies, imports, and single prices.

Theory
------
Nothing is edited: each function compares what is wanted with what the book says, in valid time, and returns the
entries that make the book say it from the right moment on. The same wish twice gives no entry the second time.

A list says some prices without a date. The first time a model is priced such a price has always been so; later it is
a change that begins when it is recorded, because a list without dates cannot say that the past was different. A price
with a date begins at its date, in the past too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from enforcer.core.book import Book
from schemas.money import Price
from schemas.policy import Policy, PolicyRecord
from schemas.price_file import PriceFile, PriceItem, is_glob
from schemas.price_parts import price_of
from schemas.prices import Daily, Kind, PriceEntry


class Version(Protocol):
    """What a list says of a model from a moment on; 0 where it does not say since when."""

    @property
    def valid_from_ms(self) -> int:
        """Unix ms."""

    @property
    def price(self) -> Price | None:
        """None where it has none that can be used."""

    @property
    def daily(self) -> tuple[Daily, ...]:
        """Hours with another price."""


Listed = Mapping[tuple[str, str], Sequence[Version]]
"""(provider, served model) → what the list says, by time."""


class Stamp(NamedTuple):
    """Who records, when, from what."""

    now_ms: int
    recorded_ms: int
    """After all that were recorded before, whatever the clock says."""
    actor: str
    reason: str = ""
    sha256: str = ""


def stamp_of(book: Book, now_ms: int, actor: str, reason: str = "", sha256: str = "") -> Stamp:
    """Return the stamp of the next entries of `book`."""
    return Stamp(now_ms, max(now_ms, book.known_ms + 1), actor, reason, sha256)


def served_models(policy: Policy) -> dict[tuple[str, str], str]:
    """Return (provider, served model) → the first name in the policy that is served by it."""
    found: dict[tuple[str, str], str] = {}
    for name, model in policy.models.items():
        found.setdefault((model.provider, model.upstream or name), name)
    return found


def apply_entries(policy: Policy, listed: Listed, book: Book, stamp: Stamp) -> list[PriceEntry]:
    """Return what applying `policy` records: the prices it says itself, and list prices of models that have none yet.

    A model whose provider now is another one of the list gets that one's prices. Other changes of the list wait for an
    import.
    """
    entries = policy_entries(policy, book, stamp)
    for (provider, model), versions in listed.items():
        known = book.list_entry(provider, model, stamp.now_ms)
        begun = book.versions((Kind.LIST, "", provider, model, ""))
        if not begun or (known is not None and _is_another(known.price, versions)):
            entries += _list_entries(provider, model, versions, book, stamp)
    return entries


def seed_entries(record: PolicyRecord, policy: Policy, book: Book, stamp: Stamp) -> list[PriceEntry]:
    """Return what makes the book say the list prices that a version was applied with before there was a book.

    Versions of prices out of a book name their entry behind a `#`.
    """
    entries = []
    for (provider, model), name in served_models(policy).items():
        price, series = record.prices.get(name), (Kind.LIST.value, "", provider, model, "")
        is_ours = price is None or price.source == Kind.POLICY or "#" in price.version
        if not is_ours and not book.versions(series):
            entries.append(_entry(series, stamp, 0, price=price))
    return entries


def import_entries(listed: Listed, book: Book, stamp: Stamp) -> list[PriceEntry]:
    """Return what makes the book say what the list says of all its models."""
    return [
        entry
        for (provider, model), versions in listed.items()
        for entry in _list_entries(provider, model, versions, book, stamp)
    ]


def file_entries(file: PriceFile, book: Book, stamp: Stamp) -> list[PriceEntry]:
    """Return what makes the book say what a file says."""
    tried, entries = book.copy(), []
    for item in file.prices:
        entry = _item_entry(item, file.source, stamp)
        now = tried.in_force(entry.series, entry.valid_from_ms)
        if now is None and entry.is_withdrawal:
            continue
        if now is None or _content(now) != _content(entry):
            tried.append(entry)
            entries.append(entry)
    return entries


def file_problems(file: PriceFile, policy: Policy | None) -> list[tuple[str, Any, str]]:
    """Return (path, value, remedy) of what a file names and the policy in force does not have."""
    if policy is None:
        return [("prices", None, "no policy is in force that has models; apply one first: tollway policy apply FILE")]
    providers, models = ", ".join(policy.providers), served_models(policy)
    problems: list[tuple[str, Any, str]] = []
    for index, item in enumerate(file.prices):
        at = f"prices.{index}"
        if not is_glob(item.provider) and item.provider not in policy.providers:
            problems.append((f"{at}.provider", item.provider, f"name a provider of the policy ({providers})"))
        elif not is_glob(item.provider + item.model) and (item.provider, item.model) not in models:
            served = ", ".join(model for provider, model in models if provider == item.provider) or "none"
            problems.append((f"{at}.model", item.model, f"name a model that {item.provider} serves here ({served})"))
        if item.org and item.org not in policy.orgs:
            orgs = ", ".join(policy.orgs)
            problems.append((f"{at}.org", item.org, f"name an organisation of the policy ({orgs})"))
    return problems


def unaudited(book: Book, is_audited: Any, versions: Iterable[int]) -> dict[int, list[PriceEntry]]:
    """Return entries by recorded time that no audit entry speaks of.

    Args:
        book: all entries.
        is_audited: tells whether the chain has a subject.
        versions: policy versions that exist: what they recorded is in their own audit entry.
    """
    subjects = {policy_reason(version) for version in versions}
    found: dict[int, list[PriceEntry]] = {}
    for held in book.entries.values():
        entry = held.entry
        if entry.reason not in subjects and not is_audited(prices_subject(entry.recorded_ms)):
            found.setdefault(entry.recorded_ms, []).append(entry)
    return found


def prices_subject(recorded_ms: int) -> str:
    """Return what the audit chain calls the entries that were recorded together."""
    return f"prices/{recorded_ms}"


def policy_reason(version: int) -> str:
    """Return the reason of entries that a policy version recorded."""
    return f"policy version {version}"


def policy_entries(policy: Policy | None, book: Book, stamp: Stamp) -> list[PriceEntry]:
    """Return what makes the book say the prices that the document says itself."""
    wanted = {
        (Kind.POLICY.value, "", model.provider, model.upstream or name, name): price_of(model.price, "policy")
        for name, model in ({} if policy is None else policy.models).items()
        if model.price is not None
    }
    entries = []
    for series in {**wanted, **dict.fromkeys(book.series_of(Kind.POLICY))}:
        now, price = book.in_force(series, stamp.now_ms), wanted.get(series)
        said = None if now is None else now.price
        if _of_price(said) != _of_price(price):
            entries.append(_entry(series, stamp, stamp.now_ms, price=price))
    return entries


def _list_entries(
    provider: str, model: str, versions: Sequence[Version], book: Book, stamp: Stamp
) -> list[PriceEntry]:  # fmt: skip
    series = (Kind.LIST.value, "", provider, model, "")
    known = book.versions(series)
    if not versions:
        return []
    moments = {version.valid_from_ms for version in versions}
    if known:
        first = min((moment for moment in moments if moment), default=stamp.now_ms)
        moments |= {stamp.now_ms, *(held.entry.valid_from_ms for held in known)}
        moments = {moment for moment in moments if moment >= min(first, stamp.now_ms)}
    tried, entries = Book(), []
    for held in known:
        tried.append(held.entry)
    for moment in sorted(moments):
        said = [version for version in versions if version.valid_from_ms <= moment][-1]
        now = tried.in_force(series, moment)
        if said.price is None or (now is not None and _said(now.price, now.daily) == _said(said.price, said.daily)):
            continue
        entry = _entry(series, stamp, moment, price=said.price, daily=said.daily)
        tried.append(entry)
        entries.append(entry)
    return entries


def _item_entry(item: PriceItem, source: str, stamp: Stamp) -> PriceEntry:
    starts = stamp.now_ms if item.valid_from is None else _ms(item.valid_from)
    return _entry(
        (item.kind, item.org, item.provider, item.model, ""), stamp, starts,
        valid_to_ms=None if item.valid_to is None else _ms(item.valid_to),
        price=None if item.price is None else price_of(item.price, source or item.kind),
        discounts=tuple(part.discount() for part in item.discounts),
        volume=None if item.volume is None else item.volume.volume(),
        reason=item.reason or stamp.reason,
    )  # fmt: skip


def _entry(series: tuple[str, str, str, str, str], stamp: Stamp, valid_from_ms: int, **content: Any) -> PriceEntry:
    kind, org, provider, model, name = series
    known = {"reason": stamp.reason, "sha256": stamp.sha256, **content}
    return PriceEntry(
        id="", kind=kind, org=org, provider=provider, model=model, name=name, valid_from_ms=valid_from_ms,
        recorded_ms=stamp.recorded_ms, recorded_by=stamp.actor, **known,
    ).sealed()  # fmt: skip


def _is_another(price: Price | None, versions: Sequence[Version]) -> bool:
    """Tell whether the list's entry is of another provider or model of the same list than it was."""
    said = next((version.price for version in reversed(versions) if version.price is not None), None)
    if price is None or said is None or price.source != said.source:
        return False
    return price.version.partition(":")[2] != said.version.partition(":")[2]


def _content(entry: PriceEntry) -> tuple[Any, ...]:
    return _said(entry.price, entry.daily), entry.discounts, entry.volume, entry.valid_to_ms


def _said(price: Price | None, daily: tuple[Daily, ...]) -> tuple[Any, ...]:
    return _of_price(price), [(part.from_minute, part.to_minute, _of_price(part.price)) for part in daily]


def _of_price(price: Price | None) -> Price | None:
    """Return a price without the names that it goes by."""
    return None if price is None else msgspec.structs.replace(price, source="", version="", listed=None)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
