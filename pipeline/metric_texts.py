"""The meaning of each metric of `drydock run` and `drydock worker`.

A scrape has it as help text, docs/reference/metrics.md as the row of the metric. A name has no
`_total`.
"""

from typing import Final

TEXTS: Final = {
    "drydock_events": (
        "Accepted events: `folded`, or `duplicate` if the log had the event already. "
        "Issued jobs and results count too."
    ),
    "drydock_decisions": "Decisions that differ from the previous one of the same Mac.",
    "drydock_devices": "Known Macs, counted once a minute, and within seconds after new ones.",
    "drydock_overdue_devices": "Exposed Macs past their deadline, counted once a minute.",
    "drydock_site_stalled": (
        "1 while a step of the site's executor lasts for more than five minutes, else 0. No other"
        " job of the site begins meanwhile. By `drydock run`."
    ),
    "drydock_volume_full": (
        "1 while less than the reserve of the volume is free, else 0. Inputs are then "
        "refused. By `drydock run`."
    ),
    "drydock_recovering_records": "Records of state to read before all partitions are ready.",
    "drydock_partitions": (
        "Partitions of the worker: `ready`, `recovering`, or `standby` (kept current for "
        "another worker)."
    ),
    "drydock_job_results": (
        "Results of jobs, from executors and from the later reports of the Macs."
    ),
    "drydock_job_attempts": (
        "Starts and ends of attempts, by the method of the job: `started`, `succeeded`, "
        "`failed`, `refused`, `expired`, `superseded`, `rehearsed`."
    ),
    "drydock_job_failures": "Attempts that did not succeed, by their error code.",
    "drydock_job_duration_seconds": (
        "Time from the issue of a job to the Mac's own report that shows its success."
    ),
    "drydock_exposure_age_devices": (
        "Macs that lack a fix, by the time since the first of their missing fixes: `age` "
        "is its upper limit, and above that of the class before: `1d`, `7d`, `14d`, "
        "`30d`, `90d`, `older`. The time counts from Apple's release, or from when "
        "Drydock first knew of it."
    ),
    "drydock_exploited_cve_devices": (
        "Macs that have this CVE, of the 20 exploited CVEs with the most Macs. A CVE "
        "without Macs has no series. Each worker chooses among its own Macs."
    ),
    "drydock_decided_devices": (
        'Macs by verdict and reason of their last decision: with `decision="hold"`, the '
        "Macs held now and why."
    ),
    "drydock_jobs_open": "Jobs without a known end.",
    "drydock_open_job_age_jobs": (
        "Jobs without a known end, by the time since their issue: `age` is its upper "
        "limit, and above that of the class before: `1h`, `4h`, `1d`, `3d`, `7d`, "
        "`older`."
    ),
    "drydock_halts": (
        "Halts in force, by the kind of their scope: `all`, `site`, `action` (at one site), "
        "`advisory`. Every worker has the same value."
    ),
    "drydock_automatic_halts": (
        "Sites at which Drydock itself has halted an action, because too many Macs needed it. Every"
        " worker has the same value."
    ),
    "drydock_policy_info": (
        "1 for the digest of the policy in force, its first 12 digits; no series without "
        "a policy. `drydock status` shows the whole digest."
    ),
    "drydock_device_findings": "Macs with a finding of this code.",
    "drydock_feed_findings": (
        "Releases about which the feeds disagree, compared once a minute; every worker "
        "has the same value."
    ),
    "drydock_doubted_journals": (
        "Journals that may lack orders, found at a start of `drydock run`: `lost`, "
        "`older` than the results in the database, or `copied` with the database."
    ),
    "drydock_lost_log_entries": (
        "Committed entries that the log of `drydock run` has lost, found at a start: its "
        "WAL file was deleted or an older file put in place."
    ),
    "drydock_policy_in_force": (
        "1 while a policy is in force, else 0. Without one nothing is decided."
    ),
    "drydock_jobs_offered_again": (
        "Jobs sent to a site again because none of its agents had accepted them. `drydock "
        "run` hands its jobs over itself: zero."
    ),
    "drydock_queries_due": (
        "Queries of Macs that became due and were given to the site's agent: "
        "`device_information`, `security_info`, `certificate_list`, `profile_list`. By `drydock "
        "run` and `drydock worker`."
    ),
    "drydock_event_age_seconds": (
        "Time from an event's own time to its fold: the delay of the source and of "
        "transport. A worker observes the oldest event of each batch."
    ),
    "drydock_decision_latency_seconds": (
        "Time from the receipt of an event until a decision that it led to is durable. A "
        "transaction, or a round of a worker, observes its oldest event."
    ),
    "drydock_job_latency_seconds": (
        "Time from the receipt of an event until a job that it led to is durable, "
        "observed as above."
    ),
    "drydock_lag_records": "Records in the worker's partitions that it has not processed yet.",
    "drydock_exposed_devices": "Macs that lack a fix, by the worst severity.",
}
