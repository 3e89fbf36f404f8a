"""The fields of a Situation that gates declare to read, and the reasons that telemetry can end."""

from collections.abc import Mapping
from typing import Final, Literal

from pipeline.state.device import CHANGED_BY_EVERY_REPORT
from schemas.decisions import Reason

Field = Literal[
    "approvals",
    "halts",
    "identity",
    "is_confirmed",
    "job_history",
    "now",
    "now_us",
    "open_job",
    "policy",
    "site",
    "site_name",
    "site_hour_jobs",
    "site_macs",
    "site_open_jobs",
    "device.activations",
    "device.ade_enrolled",
    "device.battery_percent",
    "device.bootstrap_token_escrowed",
    "device.checkins",
    "device.compliant",
    "device.corroborated_firmware",
    "device.corroborated_hostname",
    "device.corroborated_seal",
    "device.enrolled",
    "device.enrolled_since",
    "device.failure_reason",
    "device.free_disk_gb",
    "device.hardware",
    "device.hostname",
    "device.install_state",
    "device.inventory_days",
    "device.inventory_seen_us",
    "device.is_known_to_mdm",
    "device.is_of_company",
    "device.last_seen_us",
    "device.loan_returned_at",
    "device.mdm_enrolled",
    "device.mdm_seen_us",
    "device.model",
    "device.never_erase",
    "device.on_ac_power",
    "device.os_version",
    "device.ownership",
    "device.pending_version",
    "device.profiles",
    "device.serial",
    "device.reported_us",
    "device.supervised",
    "device.system_volume_sealed",
    "device.udid",
    "device.user_approved",
    "device.volume_owner_available",
]
Reads = Mapping[Reason, tuple[Field, ...]]

# The fields from which the method of a need is chosen.
METHOD_READS: Final[tuple[Field, ...]] = (
    *("now_us", "policy", "site", "device.hardware", "device.os_version"),
    *("device.enrolled", "device.inventory_seen_us", "device.mdm_seen_us"),
    *("device.supervised", "device.bootstrap_token_escrowed", "device.system_volume_sealed"),
    *("device.volume_owner_available", "device.ade_enrolled"),
    *("device.install_state", "device.reported_us", "device.checkins"),
    *("device.failure_reason", "device.pending_version"),
    *("device.last_seen_us", "job_history", "open_job"),
)
# Not a gate of a need: it closes while the last reinstall is not confirmed in every point that the
# policy requires (`reinstall_history.follow_up_missing`).
FOLLOW_UP_READS: Final[Reads] = {
    Reason.AWAITING_FOLLOW_UP: (
        *("device.activations", "device.compliant", "device.enrolled_since"),
        *("device.bootstrap_token_escrowed", "device.profiles"),
        *("device.reported_us", "device.user_approved", "job_history", "policy"),
    )
}
_TELEMETRY: Final = frozenset(f"device.{name}" for name in CHANGED_BY_EVERY_REPORT)


def reasons_on_telemetry(*declared: Reads) -> frozenset[Reason]:
    """Return the reasons for which a gate reads a telemetry field, by these declarations.

    A report that changes only telemetry can end a hold with one of these reasons.
    """
    return frozenset(
        reason
        for reads in declared
        for reason, fields in reads.items()
        if not _TELEMETRY.isdisjoint(fields)
    )
