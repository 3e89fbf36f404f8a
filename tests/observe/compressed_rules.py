"""The alert rules of the chart with shorter times, so that hours pass within minutes."""

import re
from pathlib import Path
from typing import Any, Final

from tests.deploy.chart import load

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME: Final = re.compile(r"(\[|offset )(\d+)([smhd])")
_WHOLE: Final = re.compile(r"(\d+)([smhd])")


def compressed_rules(file: Path, factor: int) -> dict[str, Any]:
    """Return the rules of a file; windows, offsets and `for` are divided by `factor`.

    Thresholds stay, also those that are seconds.
    """
    document: dict[str, Any]
    (document,) = load(file.read_text("utf-8"))
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = _TIME.sub(
                lambda found: found[1] + _divided(found[2], found[3], factor), rule["expr"]
            )
            if "for" in rule:
                whole = _WHOLE.fullmatch(rule["for"])
                assert whole is not None, rule
                rule["for"] = _divided(whole[1], whole[2], factor)
    return document


def _divided(count: str, unit: str, factor: int) -> str:
    return f"{int(count) * _SECONDS[unit] * 1000 // factor}ms"
