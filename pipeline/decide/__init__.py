"""Pure rules from state to decisions."""
