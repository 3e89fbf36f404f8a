"""The contract between Drydock's processes: events, jobs, results, decisions, dead letters.

Owns the wire form and nothing else: it does no I/O and reads no clock. Everything may import it;
it imports nothing of the project.
"""
