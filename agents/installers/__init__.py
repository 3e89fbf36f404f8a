"""Apple's installers of macOS for the Macs of a site."""
