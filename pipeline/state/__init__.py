"""Pure folds from events to state: idempotent and independent of order."""
