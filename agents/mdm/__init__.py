"""Macs reached through an MDM server: the adapters, and the executor's `Mac` over them."""
