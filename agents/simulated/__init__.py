"""Simulated Macs, good enough to be worth testing against.

A fleet is a function of its seed, its specs and the orders given with their times: no clock, no
randomness. `SimulatedFleet` is the way in; its Macs speak the `Mac` protocol.
"""

from agents.simulated.fleet import SimulatedFleet
from agents.simulated.machine import SimulatedMac
from agents.simulated.network import SiteLine
from agents.simulated.spec import ALWAYS, Faults, MacSpec, Period, SimulatedRelease

__all__ = [
    "ALWAYS",
    "Faults",
    "MacSpec",
    "Period",
    "SimulatedFleet",
    "SimulatedMac",
    "SimulatedRelease",
    "SiteLine",
]
