"""Macs reached over SSH, with the tools that Apple ships on them."""
