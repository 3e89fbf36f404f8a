"""docs/reference/sources.md, the options and the settings name exactly the sources of the table."""

import inspect
import re
from pathlib import Path

from pipeline.cli.feeds import feeds
from pipeline.cli.run import run
from pipeline.config import FeedsSettings
from pipeline.feeds.poller import _ORDER
from pipeline.ingest.sources import FEEDS, SOURCES, DeviceSource, Feed
from schemas.events.inventory import InventoryReported

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "sources.md"
ROW = re.compile(r"^\| `(\w+)` \|[^|]+\| ([^|]+) \|(?: (`[^|]+`))? \|$", re.MULTILINE)


def secrets(source: Feed | DeviceSource) -> str:
    """Return the cell with the variables of a source's secrets."""
    settings = [getattr(source, "hmac_key", None), source.secret]
    return ", ".join(f"`DRYDOCK_{setting.upper()}`" for setting in settings if setting)


def reports(source: Feed | DeviceSource) -> str:
    """Return the cell with the name and the fields of a source's inventory reports."""
    if isinstance(source, Feed):
        return ""
    permitted = source.permitted_fields[InventoryReported]
    fields = ", ".join(f"`{name}`" for name in InventoryReported.model_fields if name in permitted)
    return f"`{source.reports_as}`: {fields}"


def test_document_has_each_source_with_its_secrets_and_fields() -> None:
    expected = [(source.name, secrets(source), reports(source)) for source in SOURCES]
    assert ROW.findall(DOCUMENT.read_text()) == expected


def test_each_feed_has_options_and_a_setting_and_is_polled() -> None:
    names = [feed.name for feed in FEEDS]
    assert sorted(_ORDER) == sorted(names)
    for name in names:
        assert name in FeedsSettings.model_fields
        for command in (feeds, run):
            assert name in inspect.signature(command).parameters
