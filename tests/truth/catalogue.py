"""The faults that touch continuity (protocols.md section 8: D1-D7, D11, T1-T2), as scenarios."""

from collections.abc import Mapping

from collector_trio.sim import Fault

ALONE: Mapping[str, tuple[Fault, ...]] = {
    "lose": (Fault("lose", chance=0.01, at_s=2), Fault("lose", at_s=4, every_s=7, count=3)),
    "double": (Fault("double", chance=0.03), Fault("double", chance=0.02, delay_s=1.5)),
    "reorder": (Fault("reorder", chance=0.02, by=1), Fault("reorder", chance=0.01, by=3)),
    "delay": (Fault("delay", chance=0.005, delay_s=1.0),),
    "skip": (Fault("skip", chance=0.01, count=3), Fault("skip", chance=0.01, channel="book", count=2)),
    "overlap": (Fault("overlap", chance=0.1),),
    "heartbeat": (Fault("heartbeat", chance=0.1),),
    "reset": (Fault("reset", chance=0.03),),
    "reset_unchained": (Fault("reset_unchained", at_s=5, every_s=6),),
    "reset_unchained with a snapshot": (Fault("reset_unchained", at_s=5, every_s=6, snapshot=True),),
    "snapshot_unsolicited": (Fault("snapshot_unsolicited", chance=0.05),),
    "snapshot_withheld": (Fault("snapshot_withheld", at_s=0, count=1),),
    "snapshot_old": (Fault("snapshot_old", at_s=0, count=3, by=20), Fault("lose", "binance", at_s=9, every_s=3)),
    "snapshot_new": (Fault("snapshot_new", chance=0.7, delay_s=0.7), Fault("lose", "binance", at_s=5, every_s=3)),
    "snapshot_edge": (Fault("snapshot_edge", chance=1.0), Fault("lose", "binance", at_s=5, every_s=2)),
    "snapshot_empty": (Fault("snapshot_empty", chance=0.6), Fault("lose", "binance", at_s=5, every_s=3)),
    "snapshot_crossed": (Fault("snapshot_crossed", chance=0.6), Fault("lose", "binance", at_s=5, every_s=3)),
    "snapshot_fail": (Fault("snapshot_fail", chance=0.6), Fault("lose", "binance", at_s=5, every_s=3)),
    "disconnects": (
        Fault("close", "binance", at_s=4, every_s=9),
        Fault("drop", "okx", at_s=6, every_s=11),
        Fault("abort", at_s=13),
    ),
    "stall": (Fault("stall", at_s=5, duration_s=3),),
}
_NOT_MIXED = {"snapshot_withheld", "stall", "disconnects", "lose"}  # they would hide the others, or are below
MIXED = (
    *(fault for name, faults in ALONE.items() if name not in _NOT_MIXED for fault in faults),
    Fault("lose", chance=0.003),
    Fault("close", at_s=9, every_s=13),
)
