"""What the processes of a run are told, what they remember, and what their handlers do."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.behaviour import Behaviour, Flaky
from tests.chaos.caller import keys_of, next_numbers, operation_of
from tests.chaos.history import Acknowledged, Crashing, Entry, Journal, Sending, read
from tests.chaos.operations import Later, Work, operations
from tests.chaos.plans import Mix, draw
from tests.chaos.workload import CallerConfig, ServiceConfig, caller_config, service_config


def test_configurations_go_through_a_command_line() -> None:
    service = ServiceConfig(
        "127.0.0.1:1", "/run", "service-1", settings={"concurrency": 3}, planted="no fence"
    )
    assert service_config(service.command()[-1]) == service
    caller = CallerConfig("127.0.0.1:1", "/run", "caller-1", seed=7, mix=Mix(throw=0.5), limit=9)
    assert caller_config(caller.command()[-1]) == caller


def test_a_seed_gives_the_same_plans_again_in_about_the_shares_of_the_mix() -> None:
    mix = Mix(throw=0.3, later=0.1, poison=0.1, hang=0.1, crash=0.1, deadly=0.1)
    plans = [draw(mix, 7, "key", number) for number in range(5000)]
    assert plans == [draw(mix, 7, "key", number) for number in range(5000)]
    assert plans != [draw(mix, 8, "key", number) for number in range(5000)]
    kinds = Counter(plan.split()[0] for plan in plans)
    assert kinds.keys() == {"ok", "throw", "later", "poison", "hang", "deadly", "segfault", "abort", "exit"}
    assert 0.25 < kinds["throw"] / 5000 < 0.35
    assert 0.07 < kinds["deadly"] / 5000 < 0.13


def test_each_key_belongs_to_one_operation() -> None:
    names = operations("chaos")
    keys = keys_of("caller-1", 8)
    assert len(set(keys)) == 8
    assert {operation_of(key, names) for key in keys} == set(names.orderings)


def test_after_a_restart_each_key_goes_on_with_a_fresh_number(tmp_path: Path) -> None:
    assert next_numbers(tmp_path, "caller-1") == ({}, 0)
    journal = Journal(tmp_path, "caller-1")
    entries: list[Entry] = [
        Sending(1, "a#0", "a", 0, "chaos.v1.apply", "ok"),
        Acknowledged(2, "a#0", "chaos.v1.apply", -1, -1),
        Sending(3, "a#1", "a", 1, "chaos.v1.apply", "ok"),  # whether Kafka has it nobody knows
        Sending(4, "b#0", "b", 0, "chaos.v1.apply", "ok"),
    ]
    for entry in entries:
        journal.write(entry)
    Journal(tmp_path, "caller-10").write(Sending(5, "a#7", "a", 7, "chaos.v1.apply", "ok"))
    assert next_numbers(tmp_path, "caller-1") == ({"a": 2, "b": 1}, 3)


def _work(plan: str) -> Work:
    return Work(id=f"key#{plan}", key="key", number=0, plan=plan)


async def test_tries_count_over_processes_and_then_it_works(tmp_path: Path) -> None:
    for plan, error in (("throw 2", Flaky), ("later 2", Later)):
        for _ in range(2):
            fresh = Behaviour(tmp_path / "tries", Journal(tmp_path, "service-1"))
            with pytest.raises(error):
                await fresh.run(_work(plan))
        Behaviour(tmp_path / "tries", Journal(tmp_path, "service-1")).run_blocking(_work(plan))
    for _ in range(6):
        with pytest.raises(Flaky):
            await fresh.run(_work("poison"))


@pytest.mark.parametrize(
    ("plan", "status"), [("segfault 1", -11), ("abort 1", -6), ("exit 1", 3), ("deadly", -11)]
)
def test_a_crash_ends_the_process_and_is_written_down_before(tmp_path: Path, plan: str, status: int) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.chaos.behaviour import Behaviour;"
        "from tests.chaos.history import Journal; from tests.chaos.operations import Work;"
        "run = Path(sys.argv[1]);"
        "Behaviour(run / 'tries', Journal(run, 'service-1'))"
        ".run_blocking(Work(id='key#0', key='key', number=0, plan=sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path), plan]
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == status
    assert [type(entry) for entry in read(tmp_path)[0].entries] == [Crashing]
    if plan != "deadly":
        assert subprocess.run(command, check=False).returncode == 0
