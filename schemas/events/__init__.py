"""What happened: the data of each event type."""
