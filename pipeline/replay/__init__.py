"""Readers of the log: verify, explain, or decide again with another policy. Publishes nothing."""
