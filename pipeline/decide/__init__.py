"""Rules from state to decisions: pure functions, without a mutable class."""
