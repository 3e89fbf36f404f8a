"""Admission of events from senders: what a sender may submit, identities, times, stamps. Pure."""
