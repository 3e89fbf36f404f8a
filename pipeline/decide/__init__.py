"""Rules from state to decisions, without I/O, and the mutable engine that applies them."""
