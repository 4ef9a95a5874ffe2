"""Benchmarks: what Broker Mesh costs beside raw Kafka, measured side by side on the machine at hand.

`python -m benchmarks` starts a Kafka of its own and, for each contender, a callee and a caller process. Nothing
here is asserted on: machines differ, and so do their quiet moments. `docs/performance.md` says how to read it.
"""
