"""For each alert a state of the fleet in which it fires, and a near one in which it must not.

Values are in promtool's notation: `0x60` is 61 times 0, `0+1x60` grows by 1 each minute.
"""

from typing import Final, NamedTuple


class Case(NamedTuple):
    """Series, the minute of the evaluation, and the labels of the alerts that fire then.

    A value of a series is for `step_minutes`, and so often are the rules evaluated.
    """

    series: dict[str, str]
    minute: int
    firing: tuple[dict[str, str], ...] = ()
    step_minutes: int = 1


_LONDON: Final = {"site": "london"}
_EXPOSED: Final = 'drydock_exposed_devices{site="london",severity="exploited"}'
_FAILED: Final = 'drydock_job_failures_total{site="london",error_code="low_power"}'
_STARTED: Final = 'drydock_job_attempts_total{site="london",method="ddm",outcome="started"}'
_APPROVAL: Final = (
    'drydock_decided_devices{site="london",decision="hold",reason="awaiting_approval"}'
)
_HALT: Final = 'drydock_halts{scope="all",instance="a"}'
_OWN_HALT: Final = 'drydock_automatic_halts{action="reinstall",instance="a"}'
_STALLED: Final = 'drydock_site_stalled{site="london",instance="a"}'
_READY: Final = 'drydock_ready{instance="a"}'
_FOLDED: Final = 'drydock_events_total{topic="drydock.inventory.v1",outcome="folded"}'
_LETTERS: Final = 'drydock_dead_letters_total{topic="webhooks",code="%s"}'
_LAG: Final = 'drydock_lag_records{topic="drydock.inventory.v1"}'
_QUERY_LAG: Final = 'drydock_query_lag_records{topic="drydock.decisions.v1",instance="a"}'
_QUERY_READ: Final = 'drydock_query_read_timestamp_seconds{instance="a"}'
_REQUESTS: Final = 'drydock_gateway_requests_total{source="jamf",outcome="%s"}'
_POLLS: Final = 'drydock_feed_polls_total{source="sofa",outcome="%s"}'
_GOOD: Final = 'drydock_feed_last_good_timestamp_seconds{source="%s"}'
_DATED: Final = 'drydock_feed_document_timestamp_seconds{source="%s"}'
# A process that ends after 100 minutes with good polls, and its successor without one.
_RESTARTED: Final = {
    _GOOD % "sofa": "1+60x100 0x500",
    _POLLS % "unchanged": "0+1x100 0x500",
    _POLLS % "unreachable": "0x100 0+1x500",
}
_DAILY: Final = "0 1x23 2x23 3x10"
_DAMAGED: Final = 'drydock_damaged_files_total{instance="a",store="state"}'
_DAY: Final = 1440

CASES: Final[dict[str, dict[str, Case]]] = {
    "DrydockExploitedNotFalling": {
        "fires after a day without progress": Case(
            {_EXPOSED: "50x160"}, 1560, (_LONDON,), step_minutes=10
        ),
        "not while the number falls": Case({_EXPOSED: "3000-1x160"}, 1560, step_minutes=10),
        "not on the day of a new advisory": Case({_EXPOSED: "0x145 500x15"}, 1590, step_minutes=10),
        "not without exposed Macs": Case({_EXPOSED: "0x160"}, 1560, step_minutes=10),
    },
    "DrydockDevicesOverdue": {
        "fires above a twentieth": Case(
            {
                'drydock_overdue_devices{site="london"}': "6x120",
                'drydock_decided_devices{site="london",reason="exempt"}': "100x120",
            },
            90,
            (_LONDON,),
        ),
        "not for single Macs": Case(
            {
                'drydock_overdue_devices{site="london"}': "5x120",
                'drydock_decided_devices{site="london",reason="exempt"}': "100x120",
            },
            90,
        ),
    },
    "DrydockJobsFailing": {
        "fires for a cause of many failures": Case(
            {_FAILED: "0+1x400", _STARTED: "0+2x400"},
            390,
            (_LONDON | {"error_code": "low_power"},),
        ),
        "not for few of many starts": Case({_FAILED: "0+1x400", _STARTED: "0+10x400"}, 390),
        **{
            f"not for jobs that are {code}": Case(
                {_FAILED.replace("low_power", code): "0+1x400", _STARTED: "0+2x400"}, 390
            )
            for code in ("halted", "superseded")
        },
        "not for four failures": Case({_FAILED: "0x380 4x20", _STARTED: "0x380 4x20"}, 400),
    },
    "DrydockJobsStuck": {
        "fires for a job of a week": Case(
            {'drydock_open_job_age_jobs{site="london",age="7d"}': "1x120"}, 90, (_LONDON,)
        ),
        "not for a job of three days": Case(
            {'drydock_open_job_age_jobs{site="london",age="3d"}': "9x120"}, 90
        ),
    },
    "DrydockApprovalsWaiting": {
        "fires after a day": Case({_APPROVAL: "1x150"}, _DAY + 10, (_LONDON,), step_minutes=10),
        "not on the first day": Case({_APPROVAL: "1x150"}, _DAY - 10, step_minutes=10),
        "not when it was approved": Case({_APPROVAL: "1x100 0x50"}, _DAY + 10, step_minutes=10),
    },
    "DrydockHaltOn": {
        "fires after a shift": Case({_HALT: "1x600"}, 500, ({"scope": "all"},)),
        "not for a short halt": Case({_HALT: "1x300 0x300"}, 500),
    },
    "DrydockActionHalted": {
        "fires at once": Case({_OWN_HALT: "0x10 1x10"}, 11, ({"action": "reinstall"},)),
        "not once the action is resumed": Case({_OWN_HALT: "1x10 0x10"}, 11),
    },
    "DrydockNoPolicy": {
        "fires without a policy": Case(
            {'drydock_policy_in_force{instance="a"}': "0x30"}, 20, ({},)
        ),
        "not during a restart": Case({'drydock_policy_in_force{instance="a"}': "0x5 1x30"}, 20),
    },
    "DrydockClockSkew": {
        "fires for a slow clock": Case(
            {'drydock_clock_skew_seconds{instance="a"}': "-45x30"}, 20, ({"instance": "a"},)
        ),
        "not within half a minute": Case({'drydock_clock_skew_seconds{instance="a"}': "29x30"}, 20),
    },
    "DrydockNotReady": {
        "fires after ten minutes": Case({_READY: "0x30"}, 20, ({"instance": "a"},)),
        "not during a restart": Case({_READY: "0x5 1x30"}, 20),
    },
    "DrydockSiteStalled": {
        "fires after ten minutes": Case({_STALLED: "1x30"}, 20, ({"site": "london"},)),
        "not for one slow step": Case({_STALLED: "0x5 1x5 0x30"}, 12),
    },
    "DrydockMissing": {
        "fires without any program": Case({'up{job="other"}': "1x30"}, 20, ({},)),
        "not while one is not ready": Case({_READY: "0x30"}, 20),
    },
    "DrydockNoInput": {
        "fires for known Macs without reports": Case(
            {_FOLDED: "100x200", "drydock_devices": "20x200"}, 150, ({},)
        ),
        "not while Macs report": Case({_FOLDED: "0+1x200", "drydock_devices": "20x200"}, 150),
        "not before the first Mac": Case({_FOLDED: "0x200", "drydock_devices": "0x200"}, 150),
    },
    "DrydockInputsRefused": {
        "fires for a wrong secret": Case(
            {_REQUESTS % "unauthorized": "0+1x60"},
            40,
            ({"source": "jamf", "outcome": "unauthorized"},),
        ),
        "not for accepted requests": Case({_REQUESTS % "accepted": "0+9x60"}, 40),
        "not for a few": Case({_REQUESTS % "rejected": "0x30 3x30"}, 40),
    },
    "DrydockBug": {
        "fires for one": Case({_LETTERS % "bug": "0x30 1x30"}, 40, ({"topic": "webhooks"},)),
        "not for another code": Case({_LETTERS % "not_json": "0+5x60"}, 40),
    },
    "DrydockDeadLetters": {
        "fires for many of a code": Case(
            {_LETTERS % "not_json": "0+1x90"}, 80, ({"topic": "webhooks", "code": "not_json"},)
        ),
        "not for the user channel": Case({_LETTERS % "user_channel": "0+9x90"}, 80),
        "not for a few": Case({_LETTERS % "not_json": "0x30 3x60"}, 80),
    },
    "DrydockLag": {
        "fires for a lag that stays": Case(
            {_LAG: "20000x60"}, 50, ({"topic": "drydock.inventory.v1"},)
        ),
        "not while it shrinks": Case({_LAG: "90000-1000x60"}, 50),
        "not for a small one": Case({_LAG: "9000x60"}, 50),
    },
    "DrydockQueryLag": {
        "fires for an old read": Case(
            {_QUERY_READ: "0+60x10 600x60", _QUERY_LAG: "0x70"}, 50, ({"instance": "a"},)
        ),
        "fires for a lag that stays": Case(
            {_QUERY_READ: "0+60x70", _QUERY_LAG: "20000x70"}, 50, ({"instance": "a"},)
        ),
        "not while it catches up": Case({_QUERY_READ: "0+60x70", _QUERY_LAG: "90000-1000x70"}, 50),
        "not for a restart of the brokers": Case(
            {_QUERY_READ: "0+60x10 600x9 1200+60x50", _QUERY_LAG: "0x70"}, 30
        ),
    },
    "DrydockRecordsLost": {
        "fires for one": Case(
            {'drydock_records_lost_total{topic="drydock.jobs"}': "0x30 1x30"},
            40,
            ({"topic": "drydock.jobs"},),
        ),
        "not without a loss": Case(
            {'drydock_records_lost_total{topic="drydock.jobs"}': "0x60"}, 40
        ),
    },
    "DrydockDamagedFiles": {
        "fires for the second": Case(
            {_DAMAGED: "0x3 1x3 2x6"}, 120, ({"instance": "a"},), step_minutes=10
        ),
        "not for the first": Case({_DAMAGED: "0x1008 1x6"}, 10100, step_minutes=10),
    },
    "DrydockDiskFull": {
        "fires for the volume of a gateway": Case(
            {'drydock_gateway_spool_full{instance="a"}': "1x30"}, 20, ({"instance": "a"},)
        ),
        "not while there is room": Case(
            {
                'drydock_gateway_spool_full{instance="a"}': "0x30",
                'drydock_volume_full{instance="b"}': "0x30",
                'drydock_agent_volume_full{instance="c"}': "0x30",
            },
            20,
        ),
    },
    "DrydockFeedOld": {
        "fires for an old document": Case(
            {_DATED % "sofa": "1x200"}, 11580, ({"source": "sofa"},), step_minutes=60
        ),
        "not for a recent one": Case({_DATED % "sofa": "1x100 360000x100"}, 11580, step_minutes=60),
        "not for a feed without a date": Case({_DATED % "kev": "0x200"}, 11580, step_minutes=60),
        "not for offers, dated by their change": Case(
            {_DATED % "gdmf": "1x200"}, 11580, step_minutes=60
        ),
    },
    "DrydockFeedUnreachable": {
        "fires after six hours": Case({_GOOD % "sofa": "1x400"}, 390, ({"source": "sofa"},)),
        "not for a feed that is off": Case({_GOOD % "kev": "0x400"}, 390),
        "not for a daily feed": Case({_GOOD % "gdmf": "1x400"}, 390),
        "not while polls are good": Case({_GOOD % "sofa": "1+60x400"}, 390),
        "fires for a new process without a good poll": Case(
            {_GOOD % "sofa": "0x400", _POLLS % "unreachable": "0+1x400"}, 390, ({"source": "sofa"},)
        ),
        "fires for a new process with refused documents": Case(
            {_GOOD % "sofa": "0x400", _POLLS % "unreadable": "0+1x400"}, 390, ({"source": "sofa"},)
        ),
        "not in the first hours": Case(
            {_GOOD % "sofa": "0x400", _POLLS % "unreachable": "0+1x400"}, 350
        ),
        "fires six hours after the last good poll before a restart": Case(
            _RESTARTED, 490, ({"source": "sofa"},)
        ),
        "not within six hours of it": Case(_RESTARTED, 450),
        "not for a good document of a new process": Case(
            _RESTARTED | {_GOOD % "sofa": "1+60x100 0x300 24000+60x200"}, 490
        ),
        "not without polls": Case({_GOOD % "sofa": "0x400", _POLLS % "unreachable": "0x400"}, 390),
        "fires for a daily feed after two days": Case(
            {_GOOD % "gdmf": "0x60", _POLLS.replace("sofa", "gdmf") % "unreachable": _DAILY},
            3120,
            ({"source": "gdmf"},),
            step_minutes=60,
        ),
        "not for a daily feed after a day": Case(
            {_GOOD % "gdmf": "0x60", _POLLS.replace("sofa", "gdmf") % "unreachable": _DAILY},
            2880,
            step_minutes=60,
        ),
    },
    "DrydockFeedRefused": {
        "fires for the second refusal": Case(
            {_POLLS % "stale": "0x30 1x15 2x30"}, 60, ({"source": "sofa", "outcome": "stale"},)
        ),
        "not for one refusal": Case({_POLLS % "truncated": "0x150 1x100"}, 240),
        "not for a feed that is down": Case({_POLLS % "unreachable": "0+1x60"}, 60),
    },
}
