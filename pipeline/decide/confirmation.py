"""Confirmed Macs: the MDM channel reported them, or their site or an operator lists them.

Every sender of reports can invent a UDID. An invented Mac is decided and shown, but it uses no
capacity of a site, and does not raise the number of jobs that the site gets in an hour.
"""

from pipeline.policy.model import Policy
from pipeline.state.device import Device


def confirmed_name(device: Device, policy: Policy, site: str | None) -> str | None:
    """Return the name under which the Mac is confirmed: its UDID, or `serial:` and its serial.

    None if it is not confirmed. Several Macs can have the name of a serial number: then it is not
    known which of them it confirms.
    """
    if not policy.blast_radius.confirmed_only or device.is_known_to_mdm:
        return device.udid
    # Supervision and automated enrollment count from the MDM channel and operators only, ownership
    # from operators only (`pipeline.trust.senders`).
    if device.is_of_company:
        return device.udid
    listed = None if site is None else policy.sites[site].confirmed
    if listed is None:
        return None
    if listed.has_udid(device.udid):
        return device.udid
    return f"serial:{device.serial}" if listed.has_serial(device.serial) else None
