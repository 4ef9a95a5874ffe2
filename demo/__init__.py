"""The demo: five services over a real Kafka, real flights, one service killed, another mended, and nothing lost.

Read `contracts` first, then the services `fleet`, `weather`, `billing`, `board` and `dispatch`; the rest starts them,
watches them and does the sums.
"""
