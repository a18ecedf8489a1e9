"""Laws of plans: no difference to itself, the same differences both ways."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.core.diff import Change, Document, changes
from tests.unit.enforcer.enforcer_parts import document

names = st.sampled_from(["alpha", "beta", "gamma"])
limits = st.dictionaries(names, st.tuples(st.integers(1, 3), st.sampled_from(["[key]", "[team]"])), max_size=3)
budgets = st.dictionaries(names, st.integers(1, 3), max_size=3)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Return a valid document of a small family."""
    lines = ["version: 1", "orgs: {acme: {teams: [search]}}", "providers: {p: {protocol: openai, base_url: simulated}}"]
    models = draw(st.sets(names, min_size=1))
    lines += ["models: {" + ", ".join(f"{name}: {{provider: p}}" for name in sorted(models)) + "}", "limits:"]
    found = draw(st.permutations(sorted(draw(limits).items())))
    lines += [f"  - {{name: l-{name}, per: {per}, rpm: {rpm}}}" for name, (rpm, per) in found] or ["  []"]
    lines += ["budgets:"]
    lines += [
        f"  - {{name: b-{name}, amount: {amount} USD, period: day}}" for name, amount in draw(budgets).items()
    ] or ["  []"]  # fmt: skip
    return document("\n".join(lines))


@settings(max_examples=40)
@given(documents())
def test_a_document_differs_in_nothing_from_itself(one: Document) -> None:
    """The plan of what is in force is empty."""
    assert changes(one, one) == []


@settings(max_examples=60)
@given(documents(), documents())
def test_differences_are_the_same_both_ways(one: Document, other: Document) -> None:
    """Going back undoes every change, and there are none only between documents of one meaning."""
    there, back = changes(one, other), changes(other, one)
    assert back == [Change(change.path, change.after, change.before) for change in there]
    assert len({change.path for change in there}) == len(there)

    def meaning(of: Document) -> object:
        dumped = of.policy.model_dump()
        return {**dumped, **{part: {rule["name"]: rule for rule in dumped[part]} for part in ("limits", "budgets")}}

    assert (there == []) == (meaning(one) == meaning(other))
