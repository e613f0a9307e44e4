"""Simulated exchanges: Binance and OKX, spot and perpetuals, WebSocket and REST, on one loopback port.

Written from the exchanges' documentation, and sharing no code with our decoders, so that it can contradict them.
"""

from collector_trio.sim.facts import BookFact, TradeFact
from collector_trio.sim.fault import Fault
from collector_trio.sim.recordings import RecordedFrame, Recording, load_recordings
from collector_trio.sim.run import run_sim
from collector_trio.sim.scenario import BUILT_IN, BUMPY, CALM, Scenario, load_scenario
from collector_trio.sim.server import SimServer, serve
from collector_trio.sim.truth import Asked, ConnectionRecord, FaultRecord, Sent, Struck, Truth

__all__ = [
    "BUILT_IN",
    "BUMPY",
    "CALM",
    "Asked",
    "BookFact",
    "ConnectionRecord",
    "Fault",
    "FaultRecord",
    "RecordedFrame",
    "Recording",
    "Scenario",
    "Sent",
    "SimServer",
    "Struck",
    "TradeFact",
    "Truth",
    "load_recordings",
    "load_scenario",
    "run_sim",
    "serve",
]
