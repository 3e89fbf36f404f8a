"""`python -m tests.fuzz`: fuzz each translator in turn, FUZZ_SECONDS (60) each."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.ingest.sources import TRANSLATORS


def main() -> int:
    """Return 0 if no translator has a finding."""
    seconds = os.environ.get("FUZZ_SECONDS", "60")
    program = Path(__file__).with_name("fuzz_ingest.py")
    found = []
    for source in TRANSLATORS:
        print(f"fuzzing {source} for {seconds} s", flush=True)  # noqa: T201 - progress on a terminal
        command = [sys.executable, str(program), source, f"-max_total_time={seconds}"]
        if subprocess.run([*command, "-max_len=2000", "-timeout=20"], check=False).returncode:
            found.append(source)
    if found:
        print(f"findings in: {', '.join(found)}", file=sys.stderr)  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
