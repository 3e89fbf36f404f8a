"""Inventory reports: properties of a Mac, as one source reported them."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from schemas.ids import SerialField, SiteField, TextField, UdidField
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel

Ownership = Literal["company", "loan", "personal"]
InventorySource = Literal["mdm", "ddm", "jamf", "osquery", "munki", "executor", "admin", "other"]


class InventoryReported(WireModel):
    """One report about one Mac.

    All fields but `source` may be absent; an absent field changes nothing. A report needs a `udid`
    or a `serial`; with the serial number alone it is joined to its Mac later.

    - `free_disk_gb`: in GB (10^9 bytes); `battery_percent`: 0 to 100
    - `device_id`: Apple's SoftwareUpdateDeviceID (`J613AP`), which releases list
    - `activations`: the activations of this device that were confirmed after a reinstall
    - `profiles`: the identifiers of all configuration profiles on the Mac
    - `compliant`: the source's own verdict
    - `loan_returned_at`: the time at which a loan unit was last returned, to be reinstalled
    - `ownership`, `never_erase`, `retired`: statements of the owner, counted from `admin` only; a
      retired Mac is sold, lost or replaced
    - `enrollment_id`: counted from `mdm`, `ddm` and `admin` only
    """

    source: InventorySource
    udid: UdidField | None = None
    serial: SerialField | None = None
    os_version: OSVersionField | None = None
    build: BuildField | None = None
    model: TextField | None = None
    device_id: TextField | None = None
    hostname: TextField | None = None
    enrollment_id: TextField | None = None
    site: SiteField | None = None
    apple_silicon: bool | None = None
    supervised: bool | None = None
    user_approved: bool | None = None
    ade_enrolled: bool | None = None
    bootstrap_token_escrowed: bool | None = None
    volume_owner_available: bool | None = None
    free_disk_gb: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    battery_percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    on_ac_power: bool | None = None
    filevault: bool | None = None
    firmware: TextField | None = None
    system_volume_sealed: bool | None = None
    mdm_enrolled: bool | None = None
    mdm_server: TextField | None = None
    identity_expires_at: AwareDatetime | None = None
    boot_at: AwareDatetime | None = None
    loan_returned_at: AwareDatetime | None = None
    activations: tuple[TextField, ...] | None = None
    profiles: tuple[TextField, ...] | None = None
    compliant: bool | None = None
    ownership: Ownership | None = None
    never_erase: bool | None = None
    retired: bool | None = None
