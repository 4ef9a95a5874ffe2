"""Dead letters: what failed for good, as it came, with why; found by cause, kept until it is replayed or dropped.

On the way of a message: behind its end. `settle.py` writes them, `broker_mesh.replay` puts them back.
"""

from broker_mesh.dead_letters.causes import Cause
from broker_mesh.dead_letters.letter import DeadLetter
from broker_mesh.dead_letters.reading import OnProgress
from broker_mesh.dead_letters.selection import Selection
from broker_mesh.dead_letters.store import DeadLetters
from broker_mesh.kafka.claims import Claim

__all__ = ["Cause", "Claim", "DeadLetter", "DeadLetters", "OnProgress", "Selection"]
