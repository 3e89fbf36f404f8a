#!/usr/bin/env python3
"""Check a commit message: `area: what changed`, at most 72 characters, one change.

Git's commit-msg hook calls it with the file of the message (.pre-commit-config.yaml). Exit 1
with one line for each fault. Merges, reverts and fixups, whose subjects git writes, pass.
"""

import re
import sys
from pathlib import Path

MAX_SUBJECT = 72
_AREA = r"[a-z0-9][a-z0-9_./-]*"
_SUBJECT = re.compile(rf"{_AREA}(, {_AREA})*: \S.*")
_WRITTEN_BY_GIT = re.compile(r'Merge |Revert "|(fixup|squash|amend)! ')
# `git commit --verbose` puts the diff below this line.
_SCISSORS = re.compile(r"^# -+ >8 -+$.*", re.MULTILINE | re.DOTALL)


def faults(message: str) -> list[str]:
    """Return what is wrong with a commit message, one line for each fault."""
    kept = [line for line in _SCISSORS.sub("", message).splitlines() if not line.startswith("#")]
    lines = "\n".join(kept).strip().splitlines()
    if not lines:
        return []  # git refuses an empty message itself
    subject = lines[0].rstrip()
    if _WRITTEN_BY_GIT.match(subject):
        return []
    found = []
    if not _SUBJECT.fullmatch(subject):
        found.append("the subject is not `area: what changed`, the area in small letters")
    if len(subject) > MAX_SUBJECT:
        found.append(f"the subject has {len(subject)} characters, {MAX_SUBJECT} are allowed")
    if ";" in subject:
        found.append("the subject joins two changes with `;`: make two commits")
    if subject.endswith("."):
        found.append("the subject ends with a full stop")
    if len(lines) > 1 and lines[1].strip():
        found.append("the line after the subject is not empty")
    return found


def main(arguments: list[str]) -> int:
    """Check the message in the file that the only argument names."""
    found = faults(Path(arguments[0]).read_text(encoding="utf-8"))
    for fault in found:
        sys.stderr.write(f"commit message: {fault}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
