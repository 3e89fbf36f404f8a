"""The loop that decides for the Macs of a fleet: mutable, without I/O, asyncio and keys."""
