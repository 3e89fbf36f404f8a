"""The policy: its model, its file, and the checks of a file. Pure."""
