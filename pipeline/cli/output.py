"""Output of all commands, which the agent's command shares."""

from runtime.command_output import (
    ATTENTION,
    USAGE,
    OutputEnded,
    emit,
    end_output,
    fail,
    fail_attention,
    note,
    run_command,
)

__all__ = [
    "ATTENTION",
    "USAGE",
    "OutputEnded",
    "emit",
    "end_output",
    "fail",
    "fail_attention",
    "note",
    "run_command",
]
