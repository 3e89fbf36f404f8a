"""Polls the advisory feeds; what they say anew goes to a sink. Translates by ingest."""
