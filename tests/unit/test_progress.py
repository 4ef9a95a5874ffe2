"""Progress beside a committed offset: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import random

import pytest

from broker_mesh import progress
from broker_mesh.progress import MAX_LENGTH, RESTS_ABOVE, Alone, Attempts, Progress

FULL = Progress(
    done=((105, 200), (202, 203), (10_000, 2_000_000)),
    attempts={
        100: Attempts(3, 1_700_000_000_000, died=2),
        103: Attempts(1, 1_700_000_000_500),
        201: Attempts(2),
    },
    deaths=2,
    singly=100,
    running=True,
    alone=Alone(100, 4),
    in_flight=2000,
    parked=7,
    circuit="half-open",
)


def test_the_text_is_pinned() -> None:
    """Processes of two versions own the same partitions during a deployment."""
    assert (
        FULL.write(100)
        == "progress1.dK5KUC.100.r.kC.ukD.sAE.fw-B.pH.chalf-open.tAOgg018v-iDDEofiDIn_018v-iD.dF_CCBlyJwr38B"
    )


def test_what_is_written_is_read_back() -> None:
    assert Progress.read(FULL.write(100), 100) == FULL
    assert Progress.read(Progress().write(0), 0) == Progress()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "spark-offset-v2:{}",
        "progress1",
        "progress1.",
        "progress1.......",
        "progress2" + FULL.write(100)[9:],
        FULL.write(100)[:-1],
        FULL.write(100) + "A",
        FULL.write(100).replace(".r.", "."),
        FULL.write(100).replace("100", "١٠٠"),
        "progress1.\x00" + "ä" * 5000,
    ],
)
def test_what_is_foreign_damaged_or_of_another_version_says_nothing(text: str | None) -> None:
    assert Progress.read(text, 100) == Progress()


def test_every_damage_of_one_character_is_noticed() -> None:
    text = FULL.write(100)
    for place in range(len("progress1."), len(text)):
        for other in "A.9":
            if text[place] != other:
                assert Progress.read(text[:place] + other + text[place + 1 :], 100) == Progress()


def test_the_text_of_another_offset_says_nothing() -> None:
    assert Progress.read(FULL.write(100), 101) == Progress()


def test_what_can_not_be_kept_is_cut_at_the_far_end() -> None:
    done = tuple((1_000 + 2 * n, 1_001 + 2 * n) for n in range(5_000))
    attempts = {500 + n: Attempts(2, 1_700_000_000_000 + 1_000 * n) for n in range(400)}
    full = Progress(done, attempts, running=True)
    text = full.write(500)
    assert RESTS_ABOVE < len(text) <= MAX_LENGTH
    kept = Progress.read(text, 500)
    assert kept.running
    assert kept.done == done[: len(kept.done)]
    assert len(kept.done) > 1_400
    assert kept.attempts == {offset: attempts[offset] for offset in list(attempts)[: len(kept.attempts)]}
    assert len(kept.attempts) > 150


def test_what_hangs_alone_costs_little_however_much_is_done_behind_it() -> None:
    assert len(Progress(done=((11, 50_000_000),), running=True).write(10)) < 40


def test_what_stands_before_the_position_is_left_out() -> None:
    kept = Progress.read(FULL.write(150), 150)
    assert kept.done == ((150, 200), (202, 203), (10_000, 2_000_000))
    assert kept.attempts == {201: Attempts(2)}
    assert kept.alone is None


@pytest.mark.parametrize("circuit", ["OPEN", "a.b", "x" * 30, "ä"])
def test_no_state_of_a_circuit_breaks_the_text(circuit: str) -> None:
    assert Progress.read(Progress(circuit=circuit, parked=3).write(5), 5) == Progress(parked=3)


@pytest.mark.parametrize(
    "part", ["z", "", "rA", "k", "kAA", "k_", "k" + 40 * "_", "sA", "dA", "dAAg", "tAA", "cX", "kB d"]
)
def test_a_part_that_makes_no_sense_voids_the_text_also_where_its_sum_is_right(part: str) -> None:
    body = f"100.r.{part}"
    assert Progress.read(f"progress1.{progress._checksum('100.r')}.100.r", 100) == Progress(running=True)
    assert Progress.read(f"progress1.{progress._checksum(body)}.{body}", 100) == Progress()


def test_noise_is_never_believed_and_stops_nothing() -> None:
    draw = random.Random(7)
    alphabet = "progress1.ABCabc-_09rkspctd"
    for _ in range(2_000):
        noise = "progress1." + "".join(draw.choice(alphabet) for _ in range(draw.randrange(60)))
        assert Progress.read(noise, 1) == Progress()
