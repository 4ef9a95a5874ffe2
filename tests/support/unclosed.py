"""A program that ends without closing its clients: `python -m tests.support.unclosed BOOTSTRAP TOPIC WHAT`."""

from __future__ import annotations

import os
import sys

from broker_mesh import Mesh, MeshError
from tests.support.tiny_adapter import Receiver, Sender


def main() -> None:
    bootstrap_servers, topic, what = sys.argv[1:]
    conf = {"bootstrap.servers": bootstrap_servers}
    mesh = Mesh("shop", bootstrap_servers=bootstrap_servers, schemas="no-such-folder")
    sender = Sender(conf, mesh)
    sender.send(topic, b"one", b"k")
    sender._producer.flush()
    if what == "fork":
        child = os.fork()
        if child == 0:
            try:
                sender.send(topic, b"two", b"k")
            except MeshError as error:
                print(f"child: {error.message}", flush=True)
            sys.exit(0)  # runs what is registered for the interpreter's end, as multiprocessing's children do
        _, status = os.waitpid(child, 0)
        print(f"child ended with {os.waitstatus_to_exitcode(status)}", flush=True)
        sender.send(topic, b"two", b"k")
        sender.close()
        return
    receiver = Receiver({**conf, "group.id": f"{topic}-group"}, mesh, [topic])
    while (delivery := receiver.poll(1.0)) is None:
        pass
    delivery.dead_letter("it is no good")
    globals()["kept"] = sender, receiver  # until the interpreter itself ends
    if what == "raise":
        raise ValueError("the program's own error")


if __name__ == "__main__":
    main()
