"""The past, read again: verified, explained, or decided by another policy. Publishes nothing."""
