"""Comparisons of invoices with our books for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.cli import output
from enforcer.core.adjustments import Adjustment, Target
from enforcer.core.invoices import Invoice
from enforcer.core.reconciling import Compared, by_cause
from schemas.money import format_usd, to_decimal

COLUMNS = ("day", "model", "events", "tokens", "ours", "invoice", "difference", "because")
CAUSE_WORDS = {
    "unpriced": "usage without a price",
    "late": "came in after the export; stays as it is",
    "day edge": "may be in the other day of the invoice",
    "estimated": "usage that was estimated or is not known",
    "price": "the same tokens at another rate",
    "other usage": "more or fewer tokens than passed through Tollway",
    "unexplained": "none of these",
}
Found = Sequence[tuple[Target, Adjustment]]


def as_text(provider: str, invoice: Invoice, compared: Sequence[Compared], found: Found) -> str:
    """Return the comparison for people."""
    both = [each for each in compared if each.invoiced is not None and each.groups]
    parts = []
    if both:
        rows = [_row(each) for each in both]
        ours = sum(each.ours_nanos for each in both)
        billed = sum(each.invoiced.nanos for each in both if each.invoiced is not None)
        rows.append(("total", "", "", "", format_usd(ours), format_usd(billed), format_usd(billed - ours), ""))
        parts.append(output.table(COLUMNS, rows))
    causes = by_cause(both)
    if causes:
        parts.append(output.table(
            ("cause", "amount", "what it is"),
            [(cause, format_usd(amount), CAUSE_WORDS[cause]) for cause, amount in causes.items()],
        ))  # fmt: skip
    parts += _alone(compared)
    if found:
        orgs = sorted({target.attribution.org for target, _ in found})
        amount = format_usd(sum(adjustment.cost_nanos for _, adjustment in found))
        parts.append(
            f"{len(found):,} corrections of {amount} in all would make the books of {', '.join(orgs[:5])}"
            f"{' and others' if len(orgs) > 5 else ''} say what the invoice says (sha256 {invoice.sha256[:16]})"
        )
    elif both:
        parts.append("the books say what the invoice says; there is nothing to post")
    else:
        parts.append(f"no day has usage of {provider!r} on both sides; there is nothing to post")
    return "\n\n".join(parts)


def _row(each: Compared) -> tuple[Any, ...]:
    because = ", ".join(f"{cause} {format_usd(amount)}" for cause, amount in each.causes.items())
    return (
        each.day.isoformat(), each.label, f"{sum(group.events for group in each.groups):,}",
        f"{sum(group.tokens for group in each.groups):,}", format_usd(each.ours_nanos),
        format_usd(0 if each.invoiced is None else each.invoiced.nanos), format_usd(each.difference_nanos), because,
    )  # fmt: skip


def _alone(compared: Sequence[Compared]) -> list[str]:
    """Return what is on one side only, by name."""
    parts = []
    for title, wanted in (
        ("on the invoice only: not through Tollway, or under another name (--map NAME=MODEL)", True),
        ("in our books only: not on the invoice, or there under another name (--map NAME=MODEL)", False),
    ):
        sums: dict[str, list[int]] = {}
        for each in compared:
            if wanted == (not each.groups) and (each.invoiced is None) != wanted:
                sums.setdefault(each.label, []).append(each.difference_nanos if wanted else each.ours_nanos)
        rows = [(name, len(amounts), format_usd(sum(amounts))) for name, amounts in sorted(sums.items())]
        if rows:
            parts.append(f"{title}\n{output.table(('name', 'days', 'amount'), rows)}")
    return parts


def as_object(
    provider: str, invoice: Invoice, compared: Sequence[Compared], found: Found, posted: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the comparison for programs; amounts are exact decimals as text."""
    return {
        "provider": provider,
        "format": invoice.format,
        "sha256": invoice.sha256,
        "days": [
            {
                "day": each.day.isoformat(), "model": each.label,
                "side": "invoice" if not each.groups else "ours" if each.invoiced is None else "both",
                "ours_usd": _usd(each.ours_nanos),
                "invoice_usd": None if each.invoiced is None else _usd(each.invoiced.nanos),
                "difference_usd": _usd(each.difference_nanos),
                "causes": {cause: _usd(amount) for cause, amount in each.causes.items()},
            }
            for each in compared
        ],
        "causes": {cause: _usd(amount) for cause, amount in by_cause(compared).items()},
        "corrections": [
            {
                "org": target.attribution.org, "project": target.attribution.project, "team": target.attribution.team,
                "user": target.attribution.user, "key": target.attribution.key_id, "model": target.attribution.model,
                "usd": _usd(adjustment.cost_nanos), "note": adjustment.note,
            }
            for target, adjustment in found
        ],
        "posted": posted,
    }  # fmt: skip


def _usd(nanos: int) -> str:
    return format(to_decimal(nanos), "f")
