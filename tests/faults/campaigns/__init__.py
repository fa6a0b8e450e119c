"""Campaigns: one kind of fault, injected again and again, with a count of what came of it.

The tests beside this package run each for a short while; `make faults` runs them at length and writes
docs/reliability.md.
"""
