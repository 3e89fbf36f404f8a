"""Output of all commands, which the agent's command shares."""

from runtime.command_output import ATTENTION, USAGE, emit, fail, fail_attention, note

__all__ = ["ATTENTION", "USAGE", "emit", "fail", "fail_attention", "note"]
