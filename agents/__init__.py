"""The site executor: carries jobs out on Macs. Imports `schemas` and nothing of `pipeline`."""
