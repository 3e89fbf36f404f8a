"""Text of other programs, made harmless for terminals, pages and logs for people.

A Mac, a feed or a sender chooses host names, models, subjects and error texts. Control characters
move the cursor and write to the clipboard (OSC 52), bidi controls reverse the order of what is
shown, and zero-width characters make two different names look equal.
"""

import html
import re
from typing import Final

# Letters and marks that Unicode calls ignorable (Default_Ignorable_Code_Point), and the empty
# pattern of Braille: `str.isprintable` is True for them, and nothing is shown.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_LAYOUT: Final = "\n\t"


def printable(text: str) -> str:
    r"""Return the text with each character that is not shown as `\uXXXX`.

    Line feeds and tabs are kept. A JSON text stays the same JSON: strings in it have this escape
    too. Above U+FFFF the escape is the surrogate pair, as in JSON.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        one if one in _LAYOUT or (one.isprintable() and not _INVISIBLE.match(one)) else _escape(one)
        for one in text
    )


def printable_line(text: str) -> str:
    """Return the text as `printable` does, on one line: foreign text cannot add another."""
    return printable(text).replace("\n", "\\n").replace("\t", " ")


def printable_html(text: str) -> str:
    """Return the text as `printable` does, for the content or an attribute of an HTML element."""
    return html.escape(printable(text))


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
