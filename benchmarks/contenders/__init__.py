"""The contenders: one module each, run as `python -m benchmarks.contenders.NAME callee|caller BOOTSTRAP_SERVERS`.

Either role writes the line "ready" to stdout, and ends when its stdin does. A caller takes a `Load` a line from
stdin and answers each with a line, its `Measurement`.
"""
