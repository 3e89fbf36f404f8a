"""The hardware class of a Mac, and the macOS versions that it runs; data in `hardware_table`."""

import re
from functools import cache, lru_cache
from typing import Final

from pipeline.state.hardware_table import (
    FIRST_MAJOR_IN_FEED,
    MODELS,
    NEWEST_MAJOR,
    OTHER_WORDS,
    T2_BOARDS,
    HardwareClass,
    Model,
)

__all__ = ["MODEL_NAMES", "HardwareClass", "hardware_class", "model_name", "supports_major"]

# Reported text can be longer than any model name; do not run patterns on it.
_LONGEST_MODEL: Final = 128
_IDENTIFIER: Final = re.compile(r"([A-Za-z]{1,12})(\d{1,3}),(\d{1,3})", re.ASCII)
_BOARD: Final = re.compile(r"Mac-[0-9A-F]{16}", re.ASCII)
_VM_MODEL: Final = re.compile(r"(?:VirtualMac|VMware|Parallels|VMM-|QEMU)", re.IGNORECASE)
_VM_DEVICE_IDS: Final = frozenset({"vma2macosap", "vmm-x86_64"})

MODEL_NAMES: Final[dict[str, str]] = {model: row.name for model, row in MODELS.items()}


def _by_name() -> dict[str, tuple[Model, ...]]:
    """Return the rows of the table by case-folded marketing name; several models can share one."""
    found: dict[str, tuple[Model, ...]] = {}
    for row in MODELS.values():
        found[row.name.casefold()] = (*found.get(row.name.casefold(), ()), row)
    return found


def _family_ranges() -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
    """Return for each family (`MacBookPro`) the lowest and highest number in the table, no VMs.

    A number is a pair: (16, 1) for `MacBookPro16,1`.
    """
    ranges: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}
    for name in MODELS:
        match = _IDENTIFIER.match(name)
        if match is not None and MODELS[name].hardware is not HardwareClass.VM:
            number = (int(match[2]), int(match[3]))
            low, high = ranges.get(match[1], (number, number))
            ranges[match[1]] = (min(low, number), max(high, number))
    return ranges


# The start of a marketing name, also after the size: `14-inch MacBook Pro (2021)`.
_LINE: Final = re.compile(r"\b(macbook|imac|mac)\b(?: (pro|air|mini|studio|neo)\b)?")
_WORD: Final = re.compile(r"[0-9.]+-(?:inch|core)|[a-z0-9]+")
_FILLERS: Final = frozenset({"apple", "with", "and", "or", "the", "chip", "early", "mid", "late"})
_OLD_YEARS: Final = frozenset(str(year) for year in range(2006, 2015))
_SPELLINGS: Final = {"2": "two", "4": "four"}  # ports
_BY_NAME: Final = _by_name()
_FAMILIES: Final = _family_ranges()
_BY_DEVICE_ID: Final = {row.device_id.casefold(): row.hardware for row in MODELS.values()}


@lru_cache(maxsize=2048)
def hardware_class(
    model: str | None, device_id: str | None, apple_silicon: bool | None
) -> HardwareClass:
    """Return the hardware class, from the first source that knows it; UNKNOWN if none does.

    In order: a VM's device id, `model`, `device_id`, `apple_silicon`. `model` is an identifier
    (`Mac16,1`), or a marketing name if all its models have one class (Jamf's webhooks have only
    the name). `apple_silicon` False alone gives UNKNOWN: the permitted actions on an Intel Mac
    depend on its T2 chip, so the chip is not guessed.
    """
    if device_id is not None and device_id.strip().casefold() in _VM_DEVICE_IDS:
        return HardwareClass.VM
    found = _of_model(model) if model is not None else HardwareClass.UNKNOWN
    if found is HardwareClass.UNKNOWN and device_id is not None:
        found = _of_device_id(device_id.strip())
    if found is HardwareClass.UNKNOWN and apple_silicon:
        return HardwareClass.APPLE_SILICON
    return found


@lru_cache(maxsize=2048)
def supports_major(model: str | None, major: int) -> bool | None:
    """Return True if the model can run this major version of macOS (26, 15, 10), False if not.

    `model` is an identifier or a marketing name. None if it is not known: for no model, a model
    newer than the table or with an unknown name, a name whose models differ, a major newer than the
    table except on Intel, and a major before 12 on a model that ran 12 or is older.
    """
    rows = _rows(model) if model is not None else ()
    results = {_row_supports(row, major) for row in rows}
    if len(results) == 1:
        return results.pop()
    if model is not None and not rows and _is_older_than_table(model.strip()[:_LONGEST_MODEL]):
        return False if major >= FIRST_MAJOR_IN_FEED else None
    return None


def family_of(model: str | None) -> str | None:
    """Return the model family of a model identifier: `Mac16` of `Mac16,1`; None if unknown."""
    return None if model is None else model.partition(",")[0]


@lru_cache(maxsize=2048)
def device_ids_of(model: str | None) -> tuple[str, ...]:
    """Return the SoftwareUpdateDeviceIDs of a model identifier, or of a marketing name.

    Empty for a model that is not in the table, and if one of the models is a Mac without a T2
    before Apple silicon: its id is that of the board.
    """
    found = {row.device_id for row in _rows(model)} if model is not None else set()
    return () if any(_BOARD.fullmatch(one) for one in found) else tuple(sorted(found))


def device_id_of_board(device_id: str) -> str | None:
    """Return the SoftwareUpdateDeviceID of a Mac with a T2 by its board id; None for another id."""
    return T2_BOARDS.get(device_id)


def model_name(model: str) -> str:
    """Return the marketing name of a model identifier, or `model` itself if it is unknown."""
    return MODEL_NAMES.get(model, model)


def _rows(model: str) -> tuple[Model, ...]:
    """Return the rows of a model identifier, else of a marketing name; empty if it is unknown.

    A name in another spelling, or with fewer words, `MacBook Pro (14-inch, 2021)`, has the rows of
    its product line of which all of its words are true.
    """
    text = model.strip()
    row = MODELS.get(text)
    if row is not None:
        return (row,)
    named = _BY_NAME.get(text.casefold())
    if named is not None or len(text) > _LONGEST_MODEL:
        return named or ()
    line, words = _line_and_words(text)
    if not any(char.isdigit() for word in words for char in word):
        return ()
    return tuple(row for of, known, row in _words_of_rows() if of == line and words <= known)


def _line_and_words(name: str) -> tuple[str, frozenset[str]]:
    """Return the product line of a marketing name, and its other words, without fillers.

    `macbook pro` and {`14-inch`, `2021`}; lower case. ("", empty) for a name of no product line.
    """
    text = name.casefold()
    line = _LINE.search(text)
    if line is None:
        return "", frozenset()
    words = _WORD.findall(text[: line.start()] + text[line.end() :])
    return line[0], frozenset(_SPELLINGS.get(word, word) for word in words) - _FILLERS


@cache
def _words_of_rows() -> tuple[tuple[str, frozenset[str], Model], ...]:
    """Return the product line, all words that are true of it, and the row of each model."""
    found = []
    for model, row in MODELS.items():
        line, words = _line_and_words(row.name)
        found.append((line, words | frozenset(OTHER_WORDS.get(model, "").split()), row))
    return tuple(found)


def _row_supports(row: Model, major: int) -> bool | None:
    """Return True if the model can run this major version of macOS, False if not.

    None if the table does not show it: a major before 12 for a model whose `first_major` is 12, or
    a major newer than the table for a model that is not Intel.
    """
    if major < row.first_major:
        return False if row.first_major > FIRST_MAJOR_IN_FEED else None
    if major <= row.last_major:
        return not 15 < major < 26  # no macOS 16 to 25 exists
    return False if major <= NEWEST_MAJOR or row.is_intel else None


def _of_model(model: str) -> HardwareClass:
    """Return the class of a model: from the table, else from the family and number of its name.

    UNKNOWN where that is not certain.
    """
    kinds = {row.hardware for row in _rows(model)}
    if len(kinds) == 1:
        return kinds.pop()
    text = model.strip()
    if len(text) > _LONGEST_MODEL:
        return HardwareClass.UNKNOWN
    if _VM_MODEL.match(text):
        return HardwareClass.VM
    match = _IDENTIFIER.fullmatch(text)
    if match is None:
        older = not kinds and _is_older_than_table(text)
        return HardwareClass.INTEL if older else HardwareClass.UNKNOWN
    family, number = match[1], (int(match[2]), int(match[3]))
    if family not in _FAMILIES:
        return HardwareClass.UNKNOWN
    oldest, newest = _FAMILIES[family]
    # Apple made no Intel Mac after the newest model of each family, and no `Mac...` with Intel.
    if number > newest or (family == "Mac" and number > oldest):
        return HardwareClass.APPLE_SILICON
    # Models older than the oldest of their family in the table have neither a T1 nor a T2.
    return HardwareClass.INTEL if number < oldest and family != "Mac" else HardwareClass.UNKNOWN


def _is_older_than_table(model: str) -> bool:
    """Return True if the model is older than the oldest model of its family in the table.

    `model` is in no row. A marketing name is older with a year up to 2014: the two Macs of that
    time that run macOS 12 are in the table. False for an unknown family, the family `Mac`, and text
    that is neither an identifier nor such a name.
    """
    line, words = _line_and_words(model)
    if line and _OLD_YEARS & words:
        return True
    match = _IDENTIFIER.fullmatch(model)
    if match is None or match[1] not in _FAMILIES or match[1] == "Mac":
        return False
    return (int(match[2]), int(match[3])) < _FAMILIES[match[1]][0]


def _of_device_id(device_id: str) -> HardwareClass:
    """Return the class of a SoftwareUpdateDeviceID or board id, from the table.

    INTEL for any other board id, UNKNOWN for any other text.
    """
    known = _BY_DEVICE_ID.get(device_id.casefold())
    if known is not None:
        return known
    if device_id in T2_BOARDS:
        return HardwareClass.T2
    # All T1 and T2 boards are in the table.
    return HardwareClass.INTEL if _BOARD.fullmatch(device_id) else HardwareClass.UNKNOWN
