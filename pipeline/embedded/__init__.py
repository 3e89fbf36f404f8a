"""One process, one SQLite file: the shell for a first run and for a few thousand Macs."""
