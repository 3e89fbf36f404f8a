"""What takes facts in from outside: webhooks over HTTP, and feeds that are polled."""
