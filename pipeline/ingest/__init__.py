"""Pure translators from other people's payloads to events. No I/O, no clock."""
