"""The configuration file of sites: the Macs that their agents may act on, and by which means."""
