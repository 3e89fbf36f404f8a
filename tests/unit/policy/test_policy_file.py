"""Policy files: problems, valid forms, the example policy, and any other text."""

import hashlib
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.policy.file import (
    PolicyError,
    policy_digest,
    read_document,
    read_policy,
)
from pipeline.policy.lint import lint
from pipeline.policy.model import Policy, Site
from schemas.decisions import Severity

EXAMPLE = (Path(__file__).resolve().parents[3] / "examples" / "policy.yaml").read_text("utf-8")
SITE = "sites: {tokyo: {time_zone: Asia/Tokyo}}\n"


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def test_all_problems_are_reported_in_the_order_of_their_lines() -> None:
    text = _lines(
        "sitez: 1",
        "deadlines: {low: soon}",
        "sites:",
        "  a: {time_zone: Mars/Base}",
        "  b: {time_zone: UTC, max_jobs: none}",
    )
    with pytest.raises(PolicyError) as caught:
        read_policy(text)
    assert [(one.line, one.path) for one in caught.value.problems] == [
        (1, "sitez"),
        (2, "deadlines.low"),
        (4, "sites.a.time_zone"),
        (5, "sites.b.max_jobs"),
    ]
    assert str(caught.value) == (
        "invalid policy: line 1:1: sitez: unknown key; did you mean 'sites'? (and 3 more)"
    )


def test_every_duplicate_key_is_named() -> None:
    with pytest.raises(PolicyError) as caught:
        read_policy("a: 1\nb: 1\na: 2\nb: 2\n")
    assert [(one.line, one.path) for one in caught.value.problems] == [(3, "a"), (4, "b")]


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a: &a [x, x]"]
    lines += [
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]" for n in range(9)
    ]
    with pytest.raises(PolicyError, match="aliases repeat too many values"):
        read_policy(_lines(*lines))


def test_thousands_of_problems_are_counted_and_not_all_listed() -> None:
    with pytest.raises(PolicyError) as caught:
        read_policy(SITE + "exemptions: [" + "1, " * 3_000 + "1]\n")
    assert len(caught.value.problems) == 201
    assert "3,001 problems in all" in caught.value.problems[0].message


def test_control_characters_of_a_key_are_removed_from_the_problem() -> None:
    with pytest.raises(PolicyError) as caught:
        read_policy(SITE + '"\\e[31mred' + "x" * 5_000 + '": 1\n')
    for problem in caught.value.problems:
        assert str(problem).isprintable()
        assert len(str(problem)) < 2_500


# --- valid policies ---


def test_the_smallest_policy_is_one_site() -> None:
    policy = read_policy(SITE)
    assert policy == Policy(sites={"tokyo": Site(time_zone="Asia/Tokyo")})


def test_anchor_may_be_used_by_an_alias() -> None:
    policy = read_policy(
        _lines(
            "sites:",
            "  a: {time_zone: UTC, windows: &nights [{from: '22:00', to: '04:00'}]}",
            "  b: {time_zone: UTC, windows: *nights}",
        )
    )
    assert policy.sites["a"].windows == policy.sites["b"].windows


def test_times_of_day_and_dates_need_no_quotes() -> None:
    policy = read_policy(
        SITE
        + "windows: [{from: 22:00, to: 04:30}]\n"
        + "exemptions: [{who: {serials: [C02*]}, until: 2027-01-31, why: film}]\n"
    )
    assert (policy.windows[0].start, policy.windows[0].end) == ("22:00", "04:30")
    assert policy.exemptions[0].until == date(2027, 1, 31)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    assert read_policy("\ufeff" + EXAMPLE.replace("\n", "\r\n")) == read_policy(EXAMPLE)


def test_digest_is_of_the_unchanged_text() -> None:
    assert policy_digest(SITE) == hashlib.sha256(SITE.encode()).hexdigest()
    assert policy_digest(SITE) != policy_digest(SITE + "\n")
    assert read_document(SITE).digest == policy_digest(SITE)


def test_a_policy_round_trips_as_json() -> None:
    policy = read_policy(EXAMPLE)
    assert Policy.model_validate_json(policy.model_dump_json(by_alias=True)) == policy


@given(st.integers(min_value=0, max_value=3650 * 24 * 60))
def test_every_duration_is_written_as_it_is_read(minutes: int) -> None:
    policy = read_policy(SITE + f"deadlines: {{low: {minutes}m}}\n")
    assert policy.deadlines.low == timedelta(minutes=minutes)
    again = Policy.model_validate_json(policy.model_dump_json(by_alias=True))
    assert again.deadlines.low == policy.deadlines.low


# --- the example ---


def test_example_policy_is_valid_and_has_no_warning() -> None:
    document = read_document(EXAMPLE)
    assert lint(document, date(2026, 1, 1)) == ()
    policy = document.policy
    assert list(policy.sites) == ["london", "tokyo", "new-york"]
    assert policy.default_site == "london"
    assert policy.mdm.server is None
    assert policy.deadlines.for_severity(Severity.EXPLOITED) == timedelta(days=3)


def test_the_example_shows_every_key() -> None:
    keys = set(re.findall(r"(?:^|[\s{])(?:# )?([a-z_]+):", EXAMPLE, re.MULTILINE))
    wanted = _keys_of(Policy)
    assert wanted <= keys


@pytest.mark.parametrize(
    ("hostname", "site"),
    [
        pytest.param("ldn-0001", "london", id="london"),
        pytest.param("TYO-0001", "tokyo", id="upper-case"),
        pytest.param("nyc-0001", "new-york", id="new-york"),
        pytest.param("berlin-1", "london", id="no-match"),
        pytest.param(None, "london", id="no-hostname"),
    ],
)
def test_the_examples_sites_match_macs_by_hostname(hostname: str | None, site: str) -> None:
    policy = read_policy(EXAMPLE)
    found = policy.site_of(site=None, hostname=hostname, serial=None, udid="U", model=None)
    assert found == site


@pytest.mark.parametrize(
    ("site", "hostname", "earlier", "expected"),
    [
        pytest.param(None, "Annas-Mac", ["tyo-1"], "tokyo", id="name-of-no-site-keeps-the-site"),
        pytest.param(None, "Annas-Mac", ["x", "tyo-1", "nyc-1"], "tokyo", id="newest-match-counts"),
        pytest.param(None, "nyc-1", ["tyo-1"], "new-york", id="name-of-another-site-moves"),
        pytest.param("london", "Annas-Mac", ["tyo-1"], "london", id="reported-site-moves"),
        pytest.param("berlin", "Annas-Mac", ["tyo-1"], "tokyo", id="unknown-site-keeps-the-site"),
        pytest.param(None, "Annas-Mac", ["x"], "london", id="never-at-a-site"),
    ],
)
def test_renamed_mac_moves_only_to_a_site_that_matches(
    site: str | None, hostname: str, earlier: list[str], expected: str
) -> None:
    found = read_policy(EXAMPLE).site_of(
        site=site,
        hostname=hostname,
        serial=None,
        udid="U",
        model=None,
        earlier_hostnames=earlier,
    )
    assert found == expected


def _keys_of(model: type[BaseModel]) -> set[str]:
    """Return the keys of a model's JSON Schema and of all its definitions."""
    schema = model.model_json_schema(by_alias=True)
    parts = [schema, *schema["$defs"].values()]
    return {key for part in parts for key in part.get("properties", ())}


# --- any text ---

FRAGMENTS = st.sampled_from(
    ["&a ", "*a", "!!python/x ", "%", "{", "}", "[", "]", "\t", "\x00", "<<: *a", "9" * 5_000, "- ",
     "? ", ": ", "#", "'", '"', "|\n", ">-\n", "\n---\n", "\n...\n", "\u2028", "\x85", "\ufeff",
     "~", "null", "1e999", ".nan", "@", "`", "\ud800", "=", "2026-13-45", "\r", "é", "null: null\n"]
)  # fmt: skip


@st.composite
def mutated_examples(draw: st.DrawFn) -> str:
    text = EXAMPLE
    for _ in range(draw(st.integers(min_value=1, max_value=4))):
        at = draw(st.integers(min_value=0, max_value=len(text)))
        until = min(len(text), at + draw(st.integers(min_value=0, max_value=200)))
        middle = draw(FRAGMENTS | st.text(max_size=5) | st.just(text[at:until] * 2))
        text = text[:at] + middle + text[until:]
    return text


@given(mutated_examples())
def test_any_mutated_example_is_a_policy_or_a_policy_error(text: str) -> None:
    try:
        document = read_document(text)
    except PolicyError as error:
        last = len(text.splitlines()) + 1
        for problem in error.problems:
            assert 1 <= problem.line <= last
            assert problem.column >= 1
    else:
        lint(document, datetime(2026, 1, 1, tzinfo=UTC).date())


@given(st.text())
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    with pytest.raises(PolicyError):
        read_policy(text)
