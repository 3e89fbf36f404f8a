import pytest

from schemas.ids import is_real_serial, is_real_udid

PLACEHOLDERS = [
    *("string", "<string>", "${UDID}", "$SERIALNUMBER", "%SerialNumber%", "{{serial}}"),
    *("serial_number", "SERIAL NUMBER", "System Serial#", "To Be Filled By O.E.M.", "(null)"),
    *("N/A", "unknown", "Default string", "0", "0123456789", "XXXXXXXXXXXX", " None "),
    *("-", "--", "0-0"),
]
SHARED_UDIDS = [
    "00000000-0000-0000-0000-000000000000",
    "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
    "11111111-1111-1111-1111-111111111111",
    "03000200-0400-0500-0006-000700080009",
    "12345678-1234-1234-1234-123456789012",
]


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_placeholder_identifies_no_mac(text: str) -> None:
    assert not is_real_serial(text)
    assert not is_real_udid(text)


@pytest.mark.parametrize("udid", SHARED_UDIDS)
def test_shared_uuid_identifies_no_mac(udid: str) -> None:
    assert not is_real_udid(udid)


@pytest.mark.parametrize(
    "serial", ["C02DOCK00001", "F4GXXXXX01", "VMr0Xab/+9cj", "ZXXX-1", "W8-1234", "0C02"]
)
def test_serial_numbers_of_macs_and_virtual_macs_are_real(serial: str) -> None:
    assert is_real_serial(serial)


@pytest.mark.parametrize(
    "udid", ["0D0C0000-0000-5000-8000-000000000001", "00008103-001A2B3C4D5E6F70"]
)
def test_udids_of_macs_are_real(udid: str) -> None:
    assert is_real_udid(udid)
