"""Polls the advisory feeds and gives their documents to a sink, which publishes the news."""
