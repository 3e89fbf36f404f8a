"""The demo: Drydock's embedded form against simulated Macs, on a simulated clock."""
