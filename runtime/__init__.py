"""Parts with I/O that every process of Drydock needs. Imports `schemas`, nothing of the rest.

`pipeline` and `agents` import it; the pure core does not.
"""
