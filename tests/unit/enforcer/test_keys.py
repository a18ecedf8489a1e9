"""Virtual keys: what is asked for is checked as a whole, and the document's own keys follow the document."""

from __future__ import annotations

import msgspec

from enforcer.core.keys import Wish, clashes, follow, hash_text, issue, problems, revoked, works
from schemas.ids import new_secret
from schemas.keys import VirtualKey
from tests.unit.enforcer.enforcer_parts import DOCUMENT, NOW_MS, policy

HASH = "sha256:" + "a" * 64
LISTED = DOCUMENT + f"keys:\n  - {{id: ci, hash: '{HASH}', org: acme, models: gpt-*}}\n"


def test_every_problem_of_a_wish_is_named() -> None:
    """Unknown names, a past expiry and an empty glob come in one answer, each with a remedy."""
    wish = Wish(org="acme", project="x", team="y", user="z", models=("",), expires_ms=NOW_MS)
    found = problems(policy(), wish, NOW_MS)
    assert [field for field, _, _ in found] == ["project", "team", "user", "expires_ms", "models"]
    assert all(remedy for _, _, remedy in found)


def test_without_a_policy_there_is_nothing_to_issue_for() -> None:
    """The answer says what to do first."""
    assert "apply one" in problems(None, Wish(org="acme"), NOW_MS)[0][2]


def test_a_valid_wish_has_no_problem() -> None:
    """Names of the policy, a future expiry."""
    wish = Wish(org="acme", project="chat", team="search", user="ada", expires_ms=NOW_MS + 1)
    assert problems(policy(), wish, NOW_MS) == []


def test_an_issued_key_keeps_the_hash_and_not_the_secret() -> None:
    """The secret's 256 bits are the random ones; the key's record holds their hash alone."""
    random = bytes(range(38))
    issued = issue(Wish(org="acme", team="ml"), (), NOW_MS, random)
    assert issued is not None
    assert issued.secret == new_secret(random)
    assert issued.key.hash == hash_text(issued.secret)
    assert issued.key.id == "key_202122232425"
    assert issued.secret not in msgspec.json.encode(issued.key).decode()


def test_an_id_that_is_taken_is_not_issued_again() -> None:
    """The caller brings other random bytes."""
    assert issue(Wish(org="acme"), {"key_202122232425"}, NOW_MS, bytes(range(38))) is None


def test_revoking_twice_keeps_the_first_moment() -> None:
    """A repeated revocation changes nothing."""
    once = revoked(VirtualKey("k", HASH, "acme"), 5)
    assert (once.revoked_ms, revoked(once, 9)) == (5, once)


def test_a_key_works_until_it_is_revoked_or_expires() -> None:
    """From the moment of its expiry on a key is refused."""
    key = VirtualKey("k", HASH, "acme", expires_ms=10)
    assert works(key, 9)
    assert not works(key, 10)
    assert not works(revoked(key, 1), 2)


def test_a_listed_key_is_published_once_and_revoked_when_it_is_dropped() -> None:
    """Following twice changes nothing; dropping revokes; listing again issues anew."""
    first = follow(None, policy(LISTED), 1, {}, 1)
    assert [(key.id, key.source, key.models) for key in first] == [("ci", "policy", ("gpt-*",))]
    keys = {"ci": first[0]}
    assert follow(None, policy(LISTED), 1, keys, 2) == []
    dropped = follow(policy(LISTED), policy(), 3, keys, 3)
    assert [(key.id, key.revoked_ms) for key in dropped] == [("ci", 3)]
    again = follow(policy(), policy(LISTED), 5, {"ci": dropped[0]}, 5)
    assert [(key.id, key.revoked_ms, key.created_ms) for key in again] == [("ci", None, 1)]


def test_a_revocation_by_hand_outlives_versions_that_list_the_key() -> None:
    """An emergency revocation is not undone by the next change of a limit, nor by completing a crashed apply."""
    keys = {"ci": revoked(follow(None, policy(LISTED), 1, {}, 1)[0], 2)}
    changed = policy(LISTED.replace("rpm: 20", "rpm: 30"))
    assert follow(policy(LISTED), changed, 3, keys, 3) == []
    assert follow(None, policy(LISTED), 1, keys, 4) == []


def test_issued_keys_are_none_of_the_documents_business() -> None:
    """A document that does not list an issued key leaves it alone."""
    assert follow(policy(LISTED), policy(), 3, {"k": VirtualKey("k", HASH, "acme")}, 3) == []


def test_two_listed_keys_with_one_secret_are_refused() -> None:
    """A hash that two keys share would make the principal ambiguous."""
    text = LISTED + f"  - {{id: cd, hash: '{HASH}', org: acme}}\n"
    assert [problem.split(":")[0] for problem in clashes(policy(text), {})] == ["keys.1.hash"]
