"""The contenders: one module each, run as `python -m benchmarks.contenders.NAME callee|caller SCENE`.

Either role writes a line that begins with "ready" to stdout, and ends when its stdin does. A caller takes an `Order` a
line from stdin and answers each with a line. The scene is a `Scene` in JSON.
"""
