"""The demo on the fleet form: real programs on a real broker, beside the embedded form."""
