"""The end of the MDM identity by the certificates that a Mac lists."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from pipeline.ingest.foreign_fields import MAX_PROBLEMS
from pipeline.ingest.mdm_certificates import MAX_CERTIFICATES
from tests.factories.certificates import certificate, listed
from tests.unit.ingest.device_bodies import (
    RECEIVED_AT,
    command_response,
    fields_of,
    reasons,
    translate,
)

ENDS_AT = RECEIVED_AT.replace(microsecond=0) + timedelta(days=20)
IDENTITY = listed(certificate(ends_at=ENDS_AT))
WIFI = listed(certificate("Wi-Fi", ends_at=ENDS_AT + timedelta(days=300)))
ENDED = listed(certificate(ends_at=RECEIVED_AT - timedelta(days=400)))
SERVER = listed(certificate(ends_at=ENDS_AT, usages=[ExtendedKeyUsageOID.SERVER_AUTH]))
ANY_USE = listed(certificate(ends_at=ENDS_AT, usages=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]))
NO_USAGE = listed(certificate(ends_at=ENDS_AT, usages=[]))
AUTHORITY = listed(certificate("CA", ends_at=ENDS_AT), is_identity=False)
BROKEN_AUTHORITY = {"CommonName": "CA", "IsIdentity": False, "Data": b"no certificate"}
FOUND = {"identity_expires_at": ENDS_AT.isoformat().replace("+00:00", "Z"), "mdm_enrolled": True}


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([IDENTITY], id="alone"),
        pytest.param([AUTHORITY, IDENTITY, AUTHORITY], id="among certificates of authorities"),
        pytest.param([IDENTITY, IDENTITY], id="listed twice"),
        pytest.param([ENDED, IDENTITY], id="beside one that has ended"),
        pytest.param([SERVER, IDENTITY], id="beside one of a server"),
        pytest.param([NO_USAGE], id="without usages"),
        pytest.param([ANY_USE], id="for every use"),
        pytest.param([BROKEN_AUTHORITY, IDENTITY], id="beside an authority that is not readable"),
    ],
)
def test_only_identity_that_can_be_the_one_of_mdm_is_it(entries: list[Any]) -> None:
    translation = translate("nanomdm", command_response({"CertificateList": entries}))
    assert reasons(translation) == []
    assert fields_of(translation) == FOUND


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([], id="none"),
        pytest.param([AUTHORITY], id="no identity"),
        pytest.param([ENDED], id="an ended one"),
        pytest.param([SERVER], id="one of a server"),
        pytest.param([IDENTITY, WIFI], id="two"),
        pytest.param([WIFI, IDENTITY], id="two in the other order"),
    ],
)
def test_identity_of_mdm_is_unknown_without_exactly_one_candidate(entries: list[Any]) -> None:
    translation = translate("nanomdm", command_response({"CertificateList": entries}))
    assert reasons(translation) == []
    assert [event.type for event in translation.events] == ["drydock.mdm.command_reported.v1"]


@pytest.mark.parametrize(
    ("entry", "code", "path"),
    [
        pytest.param("text", "bad_shape", "[0]", id="not a dictionary"),
        pytest.param({"Data": IDENTITY["Data"]}, "bad_shape", "[0].IsIdentity", id="no mark"),
        pytest.param({"IsIdentity": True}, "bad_shape", "[0].Data", id="no data"),
        pytest.param(
            {"IsIdentity": True, "Data": "text"}, "bad_shape", "[0].Data", id="text as data"
        ),
        pytest.param(
            {"IsIdentity": True, "Data": b"no certificate"},
            "bad_value",
            "[0].Data",
            id="no certificate",
        ),
    ],
)
def test_unreadable_entry_could_be_the_identity(entry: Any, code: str, path: str) -> None:
    body = command_response({"CertificateList": [entry, IDENTITY]})
    translation = translate("nanomdm", body)
    assert reasons(translation) == [(code, f"plist: CertificateList{path}")]
    assert [event.type for event in translation.events] == ["drydock.mdm.command_reported.v1"]


def test_unreadable_entry_counts_although_a_message_has_no_room_for_its_problem() -> None:
    chain = ["no error"] * MAX_PROBLEMS
    unreadable = {"IsIdentity": True, "Data": b"no certificate"}
    entries = [unreadable, IDENTITY]
    body = command_response({"ErrorChain": chain, "CertificateList": entries})
    translation = translate("nanomdm", body)
    assert [event.type for event in translation.events] == ["drydock.mdm.command_reported.v1"]


def test_identity_of_a_list_beyond_the_limit_is_unknown() -> None:
    entries = [IDENTITY, *[AUTHORITY] * MAX_CERTIFICATES]
    translation = translate("nanomdm", command_response({"CertificateList": entries}))
    assert reasons(translation) == [("too_large", "plist: CertificateList")]
    assert [event.type for event in translation.events] == ["drydock.mdm.command_reported.v1"]
