"""Outputs of Apple's tools that other people captured on real Macs."""

import json
from collections import defaultdict
from pathlib import Path


def samples(reference_data: Path) -> dict[str, list[str]]:
    """Return the outputs by command, in the order of the file."""
    found: dict[str, list[str]] = defaultdict(list)
    whole = json.loads((reference_data / "cli" / "samples.json").read_text(encoding="utf-8"))
    for sample in whole["samples"]:
        found[sample["command"]].append(sample["output"])
    return found
