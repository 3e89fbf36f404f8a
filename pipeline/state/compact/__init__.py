"""Layouts that keep the state of a Mac in few bytes."""
