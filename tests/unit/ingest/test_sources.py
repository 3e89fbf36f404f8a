"""The table of sources agrees with the contract and with the translators."""

from pathlib import Path
from typing import get_args

import pytest

from pipeline.config import SenderSettings
from pipeline.gateway.logins import environment_logins
from pipeline.ingest.sources import (
    DEVICE_SOURCES,
    FEEDS,
    SECRET_SETTINGS,
    SOURCES,
    TRANSLATORS,
    DeviceSource,
    Feed,
    PermittedFields,
    translator_since,
)
from pipeline.ingest.translation import Translation
from schemas.events.advisory import AdvisorySource
from schemas.events.inventory import InventorySource
from schemas.feeds import FeedSource
from tests.unit.ingest.device_bodies import RECEIVED_AT, REDACTOR, translate
from tests.unit.ingest.hostile_payloads import samples

# Sources of events in Drydock's own form; `ddm` is the Mac's own status report, sent over MDM.
NOT_TRANSLATED = {"ddm", "executor", "admin", "other"}
# An older and a newer document of each feed.
DOCUMENTS = {
    "sofa": (
        "sofa/v2/macos_data_feed.2025-09-20.json",
        "sofa/v2/macos_data_feed.2026-08-06T1306Z.json",
    ),
    "gdmf": (None, "sofa/resources/gdmf_cached.json"),
    "kev": (None, "sofa/resources/kev_catalog.json"),
}


def stated_fields(*translations: Translation) -> PermittedFields:
    """Return the fields that are not None in the data of all events, by class of the data."""
    found: dict[type, frozenset[str]] = {}
    for event in (event for translation in translations for event in translation.events):
        stated = {name for name in event.data.model_fields_set if name != "source"}
        present = {name for name in stated if getattr(event.data, name) is not None}
        found[type(event.data)] = found.get(type(event.data), frozenset()) | present
    return found


def test_names_of_feeds_are_those_of_the_contract() -> None:
    names = {feed.name for feed in FEEDS}
    assert names == set(get_args(FeedSource))
    assert names | {"admin", "other"} == set(get_args(AdvisorySource))


def test_names_of_inventory_reports_are_those_of_the_contract() -> None:
    names = {source.reports_as for source in DEVICE_SOURCES}
    assert names | NOT_TRANSLATED == set(get_args(InventorySource))


def test_each_source_has_one_row() -> None:
    assert len({source.name for source in SOURCES}) == len(SOURCES) == len(TRANSLATORS)


@pytest.mark.parametrize("name", TRANSLATORS)
def test_dead_letters_name_the_source_of_the_row(name: str) -> None:
    (letter,) = translate(name, b"\x00").dead_letters
    assert letter.source == name


@pytest.mark.parametrize("source", DEVICE_SOURCES, ids=lambda source: source.name)
def test_samples_of_a_source_state_exactly_the_permitted_fields(source: DeviceSource) -> None:
    translations = [translate(name, raw) for name, raw in samples() if name == source.name]
    assert stated_fields(*translations) == source.permitted_fields
    for event in (event for translation in translations for event in translation.events):
        assert event.source == f"urn:drydock:device:{source.name}"
        assert getattr(event.data, "source", source.reports_as) == source.reports_as


@pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.name)
def test_real_documents_of_a_feed_state_only_permitted_fields(
    reference_data: Path, feed: Feed
) -> None:
    older, newer = (
        None if path is None else (reference_data / path).read_bytes()
        for path in DOCUMENTS[feed.name]
    )
    assert newer is not None
    found = stated_fields(
        *(
            translator_since(feed.name, previous)(
                newer, origin="test", received_at=RECEIVED_AT, redactor=REDACTOR
            )
            for previous in (None, older)
        )
    )
    assert found
    for data, fields in found.items():
        assert fields <= feed.permitted_fields[data]
    union = frozenset[str]().union
    assert union(*found.values()) == union(*feed.permitted_fields.values())


@pytest.mark.parametrize("setting", SECRET_SETTINGS)
def test_each_secret_is_read_from_its_variable(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    assert environment_logins(SenderSettings()).is_empty
    monkeypatch.setenv(f"DRYDOCK_{setting.upper()}", "a secret of a test")
    settings = SenderSettings()
    assert not environment_logins(settings).is_empty
    name = setting.removesuffix("_secret").removesuffix("_hmac_key")
    key = settings.hmac_key_of(name)
    assert "a secret of a test" in {settings.secret_of(name), key and key.decode()}
