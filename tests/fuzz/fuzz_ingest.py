"""Fuzz one translator: `python tests/fuzz/fuzz_ingest.py SOURCE [-runs=N] [libFuzzer options]`.

Needs atheris (`make fuzz` installs it; Linux only). Any exception of a translator is a bug: the
input is written to `crash-*` and printed. Half of the inputs are raw bytes. The other half are seed
documents with a few values changed, which pass the JSON parser.

Seeds are SOURCE's reference data if DRYDOCK_REFERENCE_DATA is set.
"""

import importlib
import json
import os
import plistlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

# Imported by name, because atheris is not in the `dev` extra: mypy passes with and without it.
atheris: Any = importlib.import_module("atheris")

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["pipeline.ingest", "schemas"]):
    from pipeline.ingest.redaction import Redactor
    from pipeline.ingest.sources import FEED_DIFFS, LINE_TRANSLATORS, TRANSLATORS, translator_since
    from pipeline.ingest.translation import Translation
    from schemas.envelope import decode, encode

NOW: Final = datetime(2026, 11, 23, tzinfo=UTC)
REDACTOR: Final = Redactor(b"0123456789abcdef")
# Patterns of the seeds' folders and files, if they are not named after the source.
FEED_SEEDS: Final = {
    "sofa": ("sofa/v1", "sofa/v2"),
    "gdmf": ("sofa/resources/gdmf_cached.json", "mdm/zentral"),
    "kev": ("sofa/resources/kev_catalog.json",),
}
# Limits of a seed: a real feed is too large to run often.
LONGEST_LIST: Final = 3
LONGEST_RECORD: Final = 24


def seed_documents(source: str) -> Iterator[Any]:
    """Yield parsed payloads of a source, with each list cut to a few items."""
    folders: list[Path] = []
    reference = os.environ.get("DRYDOCK_REFERENCE_DATA")
    if reference:
        for pattern in FEED_SEEDS.get(source, (f"mdm/{source}*", f"inventory/{source}*")):
            folders += sorted(Path(reference).glob(pattern))
    for folder in folders:
        files = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
        for file in files:
            if file.suffix in {".json", ".plist"} and file.is_file():
                yield from _parsed(file.read_bytes())


def _parsed(raw: bytes) -> Iterator[Any]:
    try:
        yield _cut(json.loads(raw))
    except ValueError:
        with suppress(Exception):  # a file that is neither is not a seed
            yield _cut(plistlib.loads(raw))


def _cut(value: Any) -> Any:
    if isinstance(value, list):
        return [_cut(item) for item in value if _is_read(item)][:LONGEST_LIST]
    if isinstance(value, dict):
        # A larger object is a table by id (CVEs, models), not a record.
        kept = LONGEST_LIST if len(value) > LONGEST_RECORD else LONGEST_RECORD
        return {key: _cut(item) for key, item in list(value.items())[:kept]}
    return value


def _is_read(item: Any) -> bool:
    """Return False for an entry of the KEV catalogue that the translator ignores."""
    return not isinstance(item, dict) or item.get("vendorProject", "Apple") == "Apple"


def changed(data: Any, value: Any) -> Any:
    """Return a copy of a document with a few values changed by the fuzzer's data."""
    value = json.loads(json.dumps(value, default=str))
    for _ in range(data.ConsumeIntInRange(0, 4)):
        node = value
        while isinstance(node, dict | list) and node:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            key = keys[data.ConsumeIntInRange(0, len(keys) - 1)]
            if isinstance(node[key], dict | list) and node[key] and data.ConsumeIntInRange(0, 7):
                node = node[key]
                continue
            node[key] = _other(data, node[key])
            break
    return value


def _other(data: Any, value: Any) -> Any:
    kind = data.ConsumeIntInRange(0, 6)
    if kind == 0 and isinstance(value, str):
        at = data.ConsumeIntInRange(0, len(value))
        return value[:at] + data.ConsumeUnicode(4) + value[at + 1 :]
    choices: tuple[Any, ...] = (
        None,
        data.ConsumeUnicode(12),
        data.ConsumeInt(9),
        [value],
        {},
        [],
        value,
    )
    return choices[kind]


def check(translation: Translation) -> None:
    """Assert that the events can be published and the dead letters can be stored."""
    for event in translation.events:
        assert decode(encode(event)) == event
    for letter in translation.dead_letters:
        letter.model_validate_json(letter.model_dump_json())


def fuzz(source: str) -> None:
    """Run the fuzzer until libFuzzer ends it."""
    translate = TRANSLATORS[source]
    by_line = LINE_TRANSLATORS.get(source)
    seeds = list(seed_documents(source))

    def one(raw: bytes) -> None:
        data = atheris.FuzzedDataProvider(raw)
        if seeds and data.ConsumeBool():
            seed = seeds[data.ConsumeIntInRange(0, len(seeds) - 1)]
            payload = json.dumps(changed(data, seed)).encode()
            previous = json.dumps(changed(data, seed)).encode()
        else:
            payload = previous = raw
        check(translate(payload, origin="fuzz", received_at=NOW, redactor=REDACTOR))
        if by_line is not None:
            lines = payload.splitlines(keepends=True)
            for found in by_line(lines, origin="fuzz", received_at=NOW, redactor=REDACTOR):
                check(found)
        for feed in FEED_DIFFS:
            if feed == source:
                newer = translator_since(feed, previous, frozenset({"CVE-2025-14174"}))
                check(newer(payload, origin="fuzz", received_at=NOW, redactor=REDACTOR))

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TRANSLATORS:
        sys.exit(f"usage: fuzz_ingest.py {{{','.join(TRANSLATORS)}}} [-runs=N]")
    fuzz(sys.argv[1])
