"""Pure translators from payloads of other programs to events: no I/O, no clock."""
