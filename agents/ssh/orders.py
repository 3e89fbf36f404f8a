"""The command of an order on a Mac, for each method over SSH. Pure.

| method | command |
| --- | --- |
| softwareupdate | `softwareupdate --install LABEL --restart`, the label from a listing of the Mac |
| startosinstall | `startosinstall` of a signed installer, `--eraseinstall` if the job erases |
| asr | `asr restore` to a volume that is not the running one, then `bless` (`agents.ssh.images`) |
| profiles_renew | `profiles renew -type enrollment`, which shows a prompt to the user |
| restart_update_service | `launchctl kickstart -k system/com.apple.softwareupdated` |
| activation_command | a command of the site, between its success test (`agents.ssh.activations`) |

`startosinstall` prints its arguments with `--usage`; `--nointeraction`, `--user` and `--stdinpass`
are those of github.com/grahampugh/erase-install.
"""

from collections.abc import Sequence
from typing import Final

from agents.ssh.offers import Offer
from schemas.jobs import Job, Method

# The user has had a notice; this is the time to close documents after the preparation.
_REBOOT_DELAY_S: Final = 60
# The commands that end at once and restart nothing: the end is part of the response.
SHORT: Final = frozenset({Method.PROFILES_RENEW, Method.RESTART_UPDATE_SERVICE})
# The methods that restart nothing, so a user at the screen is not disturbed.
RESTARTS_NOTHING: Final = SHORT | {Method.ACTIVATION_COMMAND}
_SHORT_COMMANDS: Final = {
    Method.PROFILES_RENEW: ("profiles", "renew", "-type", "enrollment"),
    Method.RESTART_UPDATE_SERVICE: (
        *("launchctl", "kickstart", "-k", "system/com.apple.softwareupdated"),
    ),
}


def short_command(method: Method) -> Sequence[str]:
    """Return the command of a method of SHORT."""
    return _SHORT_COMMANDS[method]


def update_command(offer: Offer, owner: str | None) -> list[str]:
    """Return the command of an update.

    `owner` is the account whose password arrives on standard input, None if none is needed.
    """
    argv = ["softwareupdate", "--install", offer.label, "--restart", "--agree-to-license"]
    return [*argv, "--verbose", *_as_owner(owner)]


def installer_arguments(job: Job, owner: str | None) -> list[str]:
    """Return the arguments of `startosinstall`; `owner` as for `update_command`.

    `--forcequitapps` and the delay end the work of a user at the screen, who has had a notice.
    """
    argv = ["--agreetolicense", "--nointeraction", "--forcequitapps"]
    argv += ["--rebootdelay", str(_REBOOT_DELAY_S)]
    if job.erases:
        argv += ["--eraseinstall", "--newvolumename", "Macintosh HD"]
    return [*argv, *_as_owner(owner)]


def _as_owner(owner: str | None) -> list[str]:
    return [] if owner is None else ["--user", owner, "--stdinpass"]
