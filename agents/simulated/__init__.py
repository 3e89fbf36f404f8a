"""Simulated Macs with the delays, refusals and faults of real ones.

A fleet is a pure function of its seed, its specs, and the orders with their times: no clock, no
randomness. `SimulatedFleet` is the entry point; its Macs implement the `Mac` protocol.
"""

from agents.simulated.fleet import SimulatedFleet
from agents.simulated.machine import SimulatedMac
from agents.simulated.network import SiteRates
from agents.simulated.spec import ALWAYS, Faults, MacSpec, Period, SimulatedRelease

__all__ = [
    "ALWAYS",
    "Faults",
    "MacSpec",
    "Period",
    "SimulatedFleet",
    "SimulatedMac",
    "SimulatedRelease",
    "SiteRates",
]
