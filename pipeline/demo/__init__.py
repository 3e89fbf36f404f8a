"""The demo: Drydock against simulated Macs, on a simulated clock."""
