"""Grants and revokes temporary increases, freezes and releases scopes: changes like those of policies and keys."""

from __future__ import annotations

from enforcer.control import Change, ControlPlane
from enforcer.core import overrides
from enforcer.core.control import ControlState
from enforcer.core.overrides import FROZEN, GRANTED, RELEASED, REVOKED, Wish, describe_freeze, describe_increase
from enforcer.errors import Refusal, field_problem, invalid, missing
from schemas.codec import encode_json
from schemas.overrides import Freeze, Increase, normal_scope
from schemas.topics import POLICY

ID_BYTES = 6


class OverridePlane:
    """The maker of these changes, one at a time with all others."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def grant(self, wish: Wish, actor: str) -> Increase | Refusal:
        """Grant an increase; it is in force on every replica as soon as that reads it."""

        def decide(state: ControlState, now_ms: int, random: bytes) -> Change | Refusal:
            increase_id = f"inc_{random[:ID_BYTES].hex()}"
            made = overrides.increase(wish, state.policy, increase_id, now_ms, state.audit.number + 1)
            if not isinstance(made, Increase):
                return invalid([field_problem(*problem) for problem in made])
            detail = describe_increase(made, state.policy, now_ms)
            return Change([(POLICY, made.key, encode_json(made))], GRANTED, made.key, detail, made)

        answer: Increase | Refusal = await self._plane.change(decide, actor)
        return answer

    async def revoke(self, increase_id: str, reason: str, actor: str) -> Increase | Refusal:
        """End an increase before its time."""

        def decide(state: ControlState, now_ms: int, random: bytes) -> Change | Refusal:
            found = state.increases.get(increase_id)
            if found is None:
                return missing(f"there is no increase {increase_id!r}", "list them with: tollway increase list")
            detail = {**describe_increase(found, state.policy, now_ms), "why": reason}
            return Change([(POLICY, found.key, None)], REVOKED, found.key, detail, found)

        answer: Increase | Refusal = await self._plane.change(decide, actor)
        return answer

    async def freeze(self, scope: str, reason: str, actor: str) -> Freeze | Refusal:
        """Refuse everything of a scope until it is released; one that is frozen already stays as it is."""

        def decide(state: ControlState, now_ms: int, random: bytes) -> Change | Refusal | Freeze:
            made = overrides.freeze(scope, reason, actor, state.policy, state.keys, now_ms, state.audit.number + 1)
            if not isinstance(made, Freeze):
                return invalid([field_problem(*problem) for problem in made])
            known = state.freezes.get(made.scope)
            if known is not None:
                return known
            return Change([(POLICY, made.key, encode_json(made))], FROZEN, made.key, describe_freeze(made), made)

        answer: Freeze | Refusal = await self._plane.change(decide, actor)
        return answer

    async def release(self, scope: str, reason: str, actor: str) -> Freeze | Refusal:
        """Let requests of a frozen scope go on."""

        def decide(state: ControlState, now_ms: int, random: bytes) -> Change | Refusal:
            try:
                found = state.freezes.get(normal_scope(scope))
            except ValueError as error:
                return invalid([field_problem("scope", scope, str(error))])
            if found is None:
                return missing(f"{scope!r} is not frozen", "list what is with: tollway freeze list")
            detail = {**describe_freeze(found), "why": reason}
            return Change([(POLICY, found.key, None)], RELEASED, found.key, detail, found)

        answer: Freeze | Refusal = await self._plane.change(decide, actor)
        return answer
