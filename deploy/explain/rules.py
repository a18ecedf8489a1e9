"""Finds the rule of a decision in the policy version that it was made under. Pure."""

from __future__ import annotations

from schemas.errors import ConfigError
from schemas.policy import PolicyRecord
from schemas.policy_file import load_policy
from schemas.rules import Rule


def rule_of(record: PolicyRecord | None, name: str) -> Rule | None:
    """Return the rule of a policy version; None if the version has none of this name, or cannot be read any more."""
    if record is None or not name:
        return None
    try:
        policy = load_policy(record.document, f"policy version {record.version}")
    except ConfigError:
        return None
    return next((rule for rule in policy.rules() if rule.name == name), None)
