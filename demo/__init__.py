"""The demo: four services over a real Kafka, real flights, one service killed midway, and nothing lost.

Read `contracts` first, then the services `fleet`, `weather`, `board` and `dispatch`; the rest starts them, watches
them and does the sums.
"""
