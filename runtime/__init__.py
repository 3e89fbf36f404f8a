"""Parts with I/O that every process of Drydock needs. Imports no folder but `schemas`.

`pipeline` and `agents` import it; the pure core does not.
"""
