"""Runs `mesh` as a user would, in a process of its own, beside services of the test's own event loop."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 60.0
REPOSITORY = Path(__file__).parents[2]


class Commands:
    """Commands against one Kafka; `said` is what the last one wrote to stderr."""

    def __init__(self, bootstrap_servers: str, **environ: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MESH_", "OTEL_"))}
        self.environ = {
            **kept,
            "MESH_BOOTSTRAP_SERVERS": bootstrap_servers,
            "NO_COLOR": "1",
            "PYTHONPATH": str(REPOSITORY),
            **environ,
        }
        self.said = ""

    async def __call__(self, *arguments: str, code: int | None = 0, directory: Path | None = None) -> str:
        """Run a command to its end, with this exit code or, for None, any of its own; gives what it wrote to stdout."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "broker_mesh.cli", *arguments),
            cwd=directory,
            env=self.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self.said = err.decode()
        is_as_expected = process.returncode == code if code is not None else (process.returncode or 0) >= 0
        assert is_as_expected, f"exit code {process.returncode}: {out.decode()}{self.said}"
        assert "Traceback" not in self.said
        return out.decode()

    async def json(self, *arguments: str, code: int | None = 0) -> Any:
        out = await self(*arguments, "-o", "json", code=code)
        assert out, f"nothing on stdout, but: {self.said}"
        return json.loads(out)
