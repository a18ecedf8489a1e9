"""The commands as they are typed: help, bad input, exit codes, and what they ask the services for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from deploy.cli import errors, published
from deploy.cli.__main__ import COMMANDS, cli
from deploy.supervisor.bootstrap import example_policy
from deploy.supervisor.files import StateDir
from schemas import published as numbers
from tests.fixtures.fake_service import FakeService


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


def run(*arguments: str, environment: dict[str, str] | None = None) -> Ran:
    """Run `tollway` with `arguments`, faults turned into exit codes as the entry point does."""
    codes: list[int] = []

    @click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def entry(rest: tuple[str, ...]) -> None:
        codes.append(errors.code_of(lambda: cli.main(args=list(rest), prog_name="tollway", standalone_mode=False)))

    result: Result = CliRunner().invoke(entry, list(arguments), env=environment, catch_exceptions=False)
    return Ran(codes[0], result.stdout, result.stderr)


def at(service: FakeService) -> list[str]:
    """Return the options that lead to a service."""
    return ["--api", service.url, "--history", service.url, "--token", "secret"]


# ------------------------------------------------------------------------------------------------------------- help


def _all_commands() -> Iterator[list[str]]:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        yield [name]
        if isinstance(command, click.Group):
            yield from ([name, inner] for inner in command.commands)


@pytest.mark.parametrize("path", list(_all_commands()), ids=" ".join)
def test_every_command_teaches_itself(path: list[str]) -> None:
    """Each help has a description and an example that begins with the command."""
    found = run(*path, "--help")
    assert found.code == 0
    assert "Example" in found.out
    assert f"tollway {' '.join(path)}" in found.out.partition("Example")[2]


def test_help_states_the_published_numbers_and_exit_codes() -> None:
    """Numbers come from one place, in `--help` and in `up --help`."""
    for arguments in (["--help"], ["up", "--help"]):
        text = " ".join(run(*arguments).out.split())
        assert f"within {numbers.PROPAGATION_P99_MS} ms" in text
        assert f"for {numbers.DRAIN_S} s" in text
        assert f"after {numbers.SELF_FENCE_MS // 1000} s without the broker" in text
        assert numbers.OVERSHOOT_BOUND in text
    assert "0 ok, 1 fault" in " ".join(run("--help").out.split())
    assert published.numbers()["lease_ms"] == numbers.LEASE_MS


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fly"], "fly"),
        (["up", "--ingress", "0"], "--ingress"),
        (["up", "--port", "x"], "--port"),
        (["up", "--broker", "nowhere"], "--broker nowhere"),
        (["up", "--kafka-sasl-username", "u"], "--kafka-sasl-username"),
        (["up", "--broker", "h:1", "--kafka-security-protocol", "SASL_SSL"], "sasl_mechanism, sasl_username"),
        (["up", "--broker", "h:1", "--kafka-config", "/nope"], "--kafka-config /nope"),
        (["up", "--clickhouse", "ftp://x"], "--clickhouse"),
        (["up", "--policy", "/no/such.yaml"], "/no/such.yaml"),
        (["policy", "check", "/no/such.yaml"], "/no/such.yaml"),
        (["keys", "create"], "--org"),
        (["status", "--api", "http://127.0.0.1:1"], "--token"),
    ],
)
def test_bad_input_is_exit_code_2_and_is_named(arguments: list[str], named: str, tmp_path: Path) -> None:
    """Nothing is started or asked; what is wrong is said on standard error."""
    found = run(*arguments, environment={"TOLLWAY_STATE": str(tmp_path / "state")})
    assert found.code == errors.BAD_INPUT
    assert named in found.err
    assert found.out == ""
    assert not (tmp_path / "state").exists()


# ----------------------------------------------------------------------------------------------- finding a deployment


def test_without_a_deployment_the_fault_says_how_to_start_one(tmp_path: Path) -> None:
    """Exit code 1, the directory and the command."""
    found = run("keys", "list", "--state", str(tmp_path))
    assert found.code == errors.FAULT
    assert f"no deployment runs in {tmp_path}; start it with: tollway up --state {tmp_path}" in found.err


def test_a_running_deployment_is_found_through_its_state_directory(service: FakeService, tmp_path: Path) -> None:
    """Address and token come from `run.json` while its owner holds the directory."""
    state = StateDir(tmp_path)
    state.acquire()
    state.write("run.json", {"api": service.url, "history": service.url, "token": "from-file"})
    service.answers["GET /v1/keys"] = (200, {"keys": []})
    found = run("keys", "list", "--json", environment={"TOLLWAY_STATE": str(tmp_path)})
    state.release()
    assert (found.code, json.loads(found.out)) == (0, [])
    assert service.asked == [("GET", "/v1/keys", None, "Bearer from-file")]


def test_a_service_that_does_not_answer_is_a_fault() -> None:
    """Exit code 1 with the address."""
    found = run("keys", "list", "--api", "http://127.0.0.1:1", "--token", "x")
    assert found.code == errors.FAULT
    assert "enforcer at http://127.0.0.1:1 does not answer" in found.err


@pytest.mark.parametrize(
    ("status", "error", "code", "said"),
    [
        (422, {"message": "bad", "problems": ["orgs: missing; add it", "x: y"]}, 2, "orgs: missing; add it"),
        (422, {"message": "unknown", "field": "team"}, 2, "team: unknown"),
        (404, {"message": "no key key_1"}, 2, "no key key_1"),
        (401, {"message": "no"}, 1, "refuses the admin token"),
        (500, {"message": "oops"}, 1, "failed with 500: oops"),
    ],
)
def test_refusals_of_a_service_become_exit_codes(
    service: FakeService, status: int, error: dict[str, Any], code: int, said: str
) -> None:
    """Bad input is 2 with every problem, a failing service is 1."""
    service.answers["DELETE /v1/keys/key_1"] = (status, {"error": error})
    found = run("keys", "revoke", "key_1", *at(service))
    assert found.code == code
    assert said in found.err
    assert len(found.err.splitlines()) == len(error.get("problems", [1]))


# ------------------------------------------------------------------------------------------------------------ policy


def test_policy_check_needs_no_deployment(tmp_path: Path) -> None:
    """The example is valid; a broken copy is refused with all problems, each with its path and the file."""
    file = tmp_path / "policy.yaml"
    file.write_text(example_policy())
    good = run("policy", "check", str(file))
    assert good.code == 0
    assert good.out.startswith(f"{file}: valid; 1 orgs, 2 providers")
    file.write_text(example_policy().replace("rpm: 20", "rpm: -1").replace("period: month", "period: fortnight"))
    bad = run("policy", "check", str(file))
    assert bad.code == errors.BAD_INPUT
    assert "limits.0.rpm: -1" in bad.err
    assert "budgets.0.period: 'fortnight'" in bad.err
    assert all(str(file) in line for line in bad.err.splitlines())
    listed = run("policy", "check", str(file), "--json")
    assert (listed.code, json.loads(listed.out)["ok"]) == (errors.BAD_INPUT, False)


def test_policy_apply_sends_the_document_and_prints_the_changes(service: FakeService, tmp_path: Path) -> None:
    """The text is sent as it is; changes and models without a price are shown."""
    file = tmp_path / "policy.yaml"
    file.write_text(example_policy())
    service.answers["POST /v1/policy"] = (
        200,
        {
            "version": 3,
            "changes": [{"path": "limits.key-minute.rpm", "before": 5, "after": 20}],
            "unpriced": ["m"],
            "message": "version 3 is in force",
        },
    )
    found = run("policy", "apply", str(file), "--note", "why", *at(service))
    assert found.code == 0
    ((_, _, body, token),) = service.asked
    assert body["document"] == example_policy()
    assert (body["note"], body["dry_run"], token) == ("why", False, "Bearer secret")
    assert "limits.key-minute.rpm" in found.out
    assert "model m has no price" in found.err
    assert "version 3 is in force" in found.err
    run("policy", "plan", str(file), *at(service))
    assert service.asked[-1][2]["dry_run"] is True


def test_an_invalid_policy_is_never_sent(service: FakeService, tmp_path: Path) -> None:
    """The file is checked first, so that problems name it."""
    file = tmp_path / "policy.yaml"
    file.write_text("orgs: {}\n")
    found = run("policy", "apply", str(file), *at(service))
    assert found.code == errors.BAD_INPUT
    assert f"{file}: providers: missing; add it" in found.err
    assert service.asked == []


def test_policy_show_prints_the_document_itself(service: FakeService) -> None:
    """`policy show > file` gives back what was applied."""
    service.answers["GET /v1/policy"] = (200, {"version": 2, "document": "a: 1\nb: 2\n"})
    service.answers["GET /v1/policy/1"] = (200, {"version": 1, "document": "a: 0\n"})
    assert run("policy", "show", *at(service)).out == "a: 1\nb: 2\n"
    assert run("policy", "show", "1", *at(service)).out == "a: 0\n"


def test_what_is_probably_not_meant_is_told(tmp_path: Path, service: FakeService) -> None:
    """By `check` and by `plan`, beside what is checked: nothing of it is an error."""
    file = tmp_path / "policy.yaml"
    file.write_text(example_policy().replace("match: {tier: 2}", "match: {model: GPT-4o}"))
    found = run("policy", "check", str(file))
    assert (found.code, "limits.experiments.match.model" in found.err) == (0, True)
    assert json.loads(run("policy", "check", str(file), "--json").out)["warnings"][0].startswith("limits.experiments")
    service.answers["POST /v1/policy"] = (200, {"message": "version 2 would be made", "warnings": ["limits.x: odd"]})
    assert "warning: limits.x: odd" in run("policy", "plan", str(file), *at(service)).err


# -------------------------------------------------------------------------------------------------------------- keys


def test_a_new_key_is_printed_with_its_secret(service: FakeService) -> None:
    """Attributes are sent as given; the secret is in the output, and in no other command's."""
    service.answers["POST /v1/keys"] = (200, {"key": {"id": "key_1", "org": "acme"}, "secret": "tw-x"})
    found = run(
        "keys", "create", "--org", "acme", "--team", "search", "--name", "n", "--model", "gpt-*", "--model", "claude-*",
        "--tag", "env=prod", "--tier", "2", "--expires", "30d", "--json", *at(service),
    )  # fmt: skip
    assert found.code == 0
    made = json.loads(found.out)
    assert (made["id"], made["secret"]) == ("key_1", "tw-x")
    body = service.asked[0][2]
    assert body["models"] == ["gpt-*", "claude-*"]
    assert (body["tags"], body["tier"]) == ({"env": "prod"}, 2)
    assert body["expires_ms"] > 1_700_000_000_000


@pytest.mark.parametrize(("option", "value"), [("--expires", "yesterday"), ("--expires", "soon"), ("--tag", "prod")])
def test_a_key_with_bad_attributes_is_not_asked_for(service: FakeService, option: str, value: str) -> None:
    """The option and the value are named."""
    found = run("keys", "create", "--org", "acme", option, value, *at(service))
    assert found.code == errors.BAD_INPUT
    assert option in found.err
    assert value in found.err
    assert service.asked == []


def test_keys_are_listed_with_their_state(service: FakeService) -> None:
    """Revoked and expired keys are told from active ones; no secret is there to show."""
    base = {"org": "acme", "hash": "sha256:aa", "models": ["*"]}
    keys = [{**base, "id": "key_1"}, {**base, "id": "key_2", "revoked_ms": 1}, {**base, "id": "key_3", "expires_ms": 1}]
    service.answers["GET /v1/keys"] = (200, {"keys": keys})
    lines = run("keys", "list", *at(service)).out.splitlines()
    assert [line.split()[0] for line in lines] == ["id", "key_1", "key_2", "key_3"]
    assert ["active" in lines[1], "revoked" in lines[2], "expired" in lines[3]] == [True] * 3
    assert not any("sha256" in line for line in lines)


# ------------------------------------------------------------------------------------------------ increases, freezes

INCREASE = {
    "id": "inc_1", "rule": "team-month", "scope": "org=acme", "size": "+20%", "expires_ms": 1, "state": "active",
    "requested_by": "ann", "approved_by": "bob", "reason": "launch",
}  # fmt: skip


def test_an_increase_is_asked_for_with_everything_that_it_needs(service: FakeService) -> None:
    """Who asks is the one at the keyboard unless somebody else is named."""
    service.answers["POST /v1/increases"] = (201, INCREASE)
    given = [
        "increase",
        "grant",
        "team-month",
        "org=acme",
        "--until",
        "7d",
        "--reason",
        "launch",
        "--approved-by",
        "bob",
    ]
    found = run(*given, "--percent", "20", "--requested-by", "ann", *at(service))
    assert (found.code, "+20%" in found.out) == (0, True)
    body = service.asked[0][2]
    assert (body["rule"], body["scope"], body["percent"], body["amount"]) == ("team-month", "org=acme", 20, None)
    assert (body["requested_by"], body["approved_by"], body["reason"]) == ("ann", "bob", "launch")
    assert body["expires_ms"] > 1_700_000_000_000
    assert json.loads(run(*given, "--amount", "5 USD", "--json", *at(service)).out) == INCREASE
    assert (service.asked[1][2]["amount"], service.asked[1][2]["requested_by"]) == (
        "5 USD",
        service.asked[1][2]["actor"],
    )


@pytest.mark.parametrize(
    ("without", "named"),
    [("--percent", "--percent or --amount"), ("--until", "--until"), ("--reason", "--reason"),
     ("--approved-by", "--approved-by")],
)  # fmt: skip
def test_an_increase_that_lacks_something_is_not_asked_for(service: FakeService, without: str, named: str) -> None:
    """Size, end, reason and approver are required."""
    given = {"--percent": "20", "--until": "7d", "--reason": "launch", "--approved-by": "bob"}
    given.pop(without)
    options = [part for pair in given.items() for part in pair]
    found = run("increase", "grant", "team-month", "org=acme", *options, *at(service))
    assert (found.code, named in found.err, service.asked) == (errors.BAD_INPUT, True, [])


def test_increases_are_listed_and_revoked(service: FakeService) -> None:
    """Expired ones only if they are asked for."""
    listed = [INCREASE, {**INCREASE, "id": "inc_2", "state": "expired"}]
    service.answers["GET /v1/increases"] = (200, {"increases": listed})
    service.answers["DELETE /v1/increases/inc_1"] = (200, INCREASE)
    assert "inc_2" not in run("increase", "list", *at(service)).out
    assert "inc_2" in run("increase", "list", "--all", *at(service)).out
    assert [item["id"] for item in json.loads(run("increase", "list", "--json", *at(service)).out)] == ["inc_1"]
    assert run("increase", "revoke", "inc_1", "--reason", "over", *at(service)).out == "inc_1 is revoked\n"
    assert "reason=over" in service.asked[-1][1]


def test_scopes_are_frozen_listed_and_released(service: FakeService) -> None:
    """Freezing takes a reason; `list` is no scope."""
    frozen = {"scope": "org=acme,team=search", "reason": "a leak", "by": "bob", "created_ms": 1}
    service.answers["POST /v1/freezes"] = (201, frozen)
    service.answers["GET /v1/freezes"] = (200, {"freezes": [frozen]})
    service.answers["DELETE /v1/freezes"] = (200, frozen)
    bare = run("freeze", "team=search,org=acme", *at(service))
    assert (bare.code, "--reason" in bare.err) == (errors.BAD_INPUT, True)
    found = run("freeze", "team=search,org=acme", "--reason", "a leak", *at(service))
    assert found.out == "org=acme,team=search is frozen: a leak\n"
    assert service.asked[0][2]["scope"] == "team=search,org=acme"
    assert "a leak" in run("freeze", "list", *at(service)).out
    assert json.loads(run("freeze", "list", "--json", *at(service)).out) == [frozen]
    assert run("release", "org=acme,team=search", *at(service)).out == "org=acme,team=search is released\n"
    assert "scope=org%3Dacme%2Cteam%3Dsearch" in service.asked[-1][1]
    assert json.loads(run("release", "org=acme,team=search", "--json", *at(service)).out)["released"] is True


# ----------------------------------------------------------------------------------------------------------- history


def test_reports_ask_for_half_open_utc_times(service: FakeService) -> None:
    """Dates become UTC midnights; columns go through as they are."""
    answer = {"columns": ["team", "cost_usd"], "rows": [["search", "1.5"]], "totals": {"cost_usd": "1.5"}}
    service.answers["GET /v1/report/spend"] = (200, answer)
    found = run("report", "spend", "--by", "team", "--since", "2026-11-01", "--until", "2026-12-01", *at(service))
    assert found.code == 0
    asked = service.asked[0][1]
    assert "by=team" in asked
    assert "since=2026-11-01T00%3A00%3A00Z" in asked
    assert "until=2026-12-01T00%3A00%3A00Z" in asked
    assert run("report", "spend", "--since", "soon", *at(service)).code == errors.BAD_INPUT


def test_sql_prints_what_the_query_returns(service: FakeService) -> None:
    """Table, JSON and CSV of the same rows."""
    service.answers["POST /v1/sql"] = (200, {"columns": ["n", "s"], "rows": [[1, "a"], [2, None]]})
    assert run("sql", "SELECT 1", *at(service)).out == "n  s\n1  a\n2  -\n"
    assert json.loads(run("sql", "SELECT 1", "--format", "json", *at(service)).out) == [
        {"n": 1, "s": "a"}, {"n": 2, "s": None},
    ]  # fmt: skip
    assert run("sql", "SELECT 1", "--format", "csv", *at(service)).out == "n,s\n1,a\n2,\n"
    assert service.asked[0][2]["query"] == "SELECT 1"


def test_a_decision_is_shown_flat(service: FakeService) -> None:
    """Nested parts are lines of their own."""
    service.answers["GET /v1/decisions/abc"] = (200, {"rule": "key-minute", "limit": 20, "weight": {"num": 1}})
    out = run("decision", "abc", *at(service)).out.splitlines()
    assert [line.split() for line in out] == [["rule", "key-minute"], ["limit", "20"], ["weight.num", "1"]]


def test_topics_need_no_deployment() -> None:
    """The table is the one that topics are created from."""
    assert json.loads(run("topics", "--json").out)[0]["topic"] == "usage"
    assert run("topics").out.splitlines()[0].startswith("topic")
