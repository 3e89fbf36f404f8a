"""The agent of a site: it carries jobs out on Macs. Imports `schemas`, nothing of `pipeline`."""
