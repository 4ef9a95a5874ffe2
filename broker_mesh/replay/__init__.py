"""Replay: what failed for good is put back, once, after its cause is mended; or dropped for good.

On the way of a message: from behind its end to a new beginning.
"""

from broker_mesh.replay.replayer import Edit, Replayer
from broker_mesh.replay.report import Refusal, Report

__all__ = ["Edit", "Refusal", "Replayer", "Report"]
