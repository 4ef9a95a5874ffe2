"""Benchmarks: what Broker Mesh costs beside raw Kafka and its peers, measured side by side on the machine at hand.

`python -m benchmarks` starts a Kafka of its own and measures section by section (`sections/`); in most, each contender
(`contenders/`) has a callee and a caller process. Only ratios within one run are asserted on (`floors.py`), and not by
the tests: machines differ, and so do their quiet moments. `docs/performance.md` says how to read it.
"""
