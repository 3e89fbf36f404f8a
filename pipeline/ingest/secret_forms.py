"""Secrets in texts, known by their form: keys, passwords in URLs and commands, name/value pairs."""

import re
from collections.abc import Callable
from typing import Final

# A text that was redacted before stays as it is.
_NEW: Final = r"(?!hmac-sha256:)"
# Words with and without the signs between them: `api_key`, `APIKEY`, `recovery key`.
_JOINED: Final = (
    r"admin{sign}pass|(?:recovery|private|api|escrow|filevault|unlock){sign}key"
    r"|(?:access|api|auth|bootstrap|enroll(?:ment)?|push|refresh|session|unlock){sign}token"
)
_PLAIN: Final = r"pass(?:word|wd|phrase|code)|pwd|secret|credential|bearer|cookie"


def _containing_secret_word(name_sign: str, joining: str, separating: str) -> str:
    """Return the expression of a name of `name_sign` with a word for a secret anywhere in it.

    `joining` are the signs within words that a name may contain, `separating` those that end it.
    A name is read once, from its start and without a return into it: a sender's text of a name
    repeated for 4,000 characters would take seconds otherwise.
    """
    joined = _JOINED.replace("{sign}", f"[{joining}]?")
    separated = _JOINED.replace("{sign}", f"[{separating}]")
    return rf"(?:(?>{name_sign}*?(?:{_PLAIN}|{joined}))|{name_sign}*?(?:{separated})){name_sign}*+"


_FIELD_NAME: Final = _containing_secret_word(r"[\w.-]", "_.-", " ")
_OPTION: Final = "--?" + _containing_secret_word(r"[\w-]", "_-", ". ")
_VALUE: Final = rf"(?P<secret>{_NEW}[^\s\"',;&<>]+)"
# The group `secret` is replaced.
_FORMS: Final = (
    re.compile(
        r"(?P<secret>-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?"
        r"(?:-----END [A-Z0-9 ]+-----|\Z))",
        re.S,
    ),
    # A FileVault recovery key: six groups of four.
    re.compile(
        rf"(?<![\w-])(?P<secret>{_NEW}[A-Z0-9]{{4}}(?:-[A-Z0-9]{{4}}){{5}})(?![\w-])",
        re.I | re.A,
    ),
    # One sign of the scheme is enough: longer ones would be searched from each of their signs.
    re.compile(rf"[a-z0-9+.-]://[^\s/:@]*:(?P<secret>{_NEW}[^\s/]+)@", re.I | re.A),
    re.compile(
        rf"\bAuthorization[\"']?\s*[:=]\s*[\"']?(?P<secret>{_NEW}[^\s\"'][^\"'\r\n]*)", re.I
    ),
    re.compile(
        rf"\b(?:Basic|Bearer)\s+(?P<secret>{_NEW}(?=[^\s]*[0-9=])[A-Za-z0-9+/=._~-]{{4,}})", re.I
    ),
    re.compile(rf"(?<![\w.-]){_FIELD_NAME}[\"']?\s*[:=]\s*[\"']?{_VALUE}", re.I),
    # The parameter of a URL, and the options of a command.
    re.compile(rf"[?&;](?:token|sig|signature|key)={_VALUE}", re.I),
    re.compile(rf"(?<!\S){_OPTION}\s+[\"']?{_VALUE}", re.I),
    re.compile(rf"(?<!\S)(?:-u|--user)\s+[\"']?[^\s:]+:{_VALUE}"),
)
_MARK: Final = re.compile(r"[:=-]|Basic|Bearer", re.I)


def has_secret(text: str) -> bool:
    """Return True if a part of the text has the form of a secret."""
    return _MARK.search(text) is not None and any(form.search(text) for form in _FORMS)


def replace_secrets(text: str, replacement: Callable[[str], str]) -> str:
    """Return the text with `replacement(secret)` in place of each part with the form of a secret.

    A text that begins with `hmac-sha256:` is no secret.
    """
    if _MARK.search(text) is None:
        return text

    def replaced(match: re.Match[str]) -> str:
        start, end = (at - match.start() for at in match.span("secret"))
        return match[0][:start] + replacement(match["secret"]) + match[0][end:]

    for form in _FORMS:
        text = form.sub(replaced, text)
    return text
