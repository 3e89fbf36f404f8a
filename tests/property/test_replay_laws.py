"""Replay of any log gives the decisions that were recorded in it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.replay.counterfactual import counterfactual
from pipeline.replay.explain import explain
from pipeline.replay.verify import verify
from tests.unit.replay.driver import BUILDS, POLICY, Driver, MemoryLog

Happening = tuple[str, tuple[Any, ...], dict[str, Any]]
POLICIES = (POLICY, POLICY.replace("max_jobs: 2", "max_jobs: 1"), POLICY.replace("7d", "1d"))
UDIDS = st.sampled_from(["LON-1", "LON-2", "LON-3", "TYO-1", "NIL-1"])
VERSIONS = st.sampled_from(sorted(BUILDS))
OUTCOMES = st.sampled_from(["accepted", "started", "progressed", "acted", "failed", "refused"])
FACTS = st.fixed_dictionaries(
    {},
    optional={
        "free_disk_gb": st.floats(0, 200),
        "battery_percent": st.floats(0, 100),
        "on_ac_power": st.booleans(),
        "user_approved": st.booleans(),
        "supervised": st.booleans(),
        "system_volume_sealed": st.booleans(),
        "enrollment_id": st.sampled_from(["E-1", "E-2"]),
        "serial": st.sampled_from(["SNLON-1", "SNLON-2", "SHARED"]),
    },
)
CVES = st.lists(st.sampled_from([f"CVE-2025-200{n}" for n in range(4)]), unique=True)
SEVERITIES = st.sampled_from(["low", "high", "critical", None])
SERIALS = st.sampled_from(["SNLON-1", "SHARED", "UNSEEN"])
SITES = st.sampled_from(["london", "tokyo"])
ACTIONS = st.sampled_from([None, "update", "upgrade", "reenroll"])
NOTHING: st.SearchStrategy[dict[str, Any]] = st.just({})


def happening(
    method: str,
    *arguments: st.SearchStrategy[Any],
    fields: st.SearchStrategy[dict[str, Any]] = NOTHING,
) -> st.SearchStrategy[Happening]:
    """Draw a call of a method of Driver."""
    return st.tuples(st.just(method), st.tuples(*arguments), fields)


HAPPENINGS = st.one_of(
    happening("report", UDIDS, VERSIONS, fields=FACTS),
    happening("enroll", UDIDS),
    happening("check_out", UDIDS),
    happening("report_serial", SERIALS, fields=st.just({"filevault": True})),
    happening(
        "publish", VERSIONS, fields=st.fixed_dictionaries({"cves": CVES, "severity": SEVERITIES})
    ),
    happening("raise_severity", VERSIONS, fields=st.fixed_dictionaries({"exploited_cves": CVES})),
    happening("wait", fields=st.fixed_dictionaries({"hours": st.integers(1, 30)})),
    happening("result", UDIDS, OUTCOMES),
    happening(
        "halt",
        fields=st.fixed_dictionaries({"clear": st.booleans(), "site": SITES, "action": ACTIONS}),
    ),
    happening("policy", st.sampled_from(POLICIES)),
)


def driven(driver: Driver, happenings: list[Happening]) -> MemoryLog:
    for method, arguments, fields in happenings:
        getattr(driver, method)(*arguments, **fields)
    return driver.finish()


@given(st.lists(HAPPENINGS, max_size=40), st.sampled_from([POLICY, None]))
def test_replay_equals_live(happenings: list[Happening], policy: str | None) -> None:
    driver = Driver(policy)
    log = driven(driver, happenings)
    report = verify(log, state=log)
    assert report.difference is None
    assert report.decisions == len(log.decisions())
    for udid in driver.reconciler.fleet.macs():
        found = explain(log, udid)
        assert found is not None
        if found.record is not None:
            assert found.record.decision.udid == udid


@given(st.lists(HAPPENINGS, max_size=25), st.sampled_from(POLICIES))
def test_counterfactual_of_the_policy_in_force_has_no_differences(
    happenings: list[Happening], policy: str
) -> None:
    others = [one for one in happenings if one[0] != "policy"]
    assert counterfactual(driven(Driver(policy), others), policy).changes == ()
