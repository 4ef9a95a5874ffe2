"""The embedded Kafka: a real Apache Kafka for development, tests and the demo, with nothing but Python on the machine.

It stands beside the way of a message, not on it: what it runs is an ordinary broker, reached by its bootstrap
servers like any other. Read in this order: `jars` and `download` (what is run), `java` and `aot` (how it is
started fast), `broker` (one process), `cluster` (`EmbeddedKafka`, the public face), `local` (`mesh dev`).

`discovery`, `state`, `paths` and `processes` need nothing but the standard library (on Linux), so that a mesh can
find a running Kafka without the `dev-kafka` extra being installed.
"""
