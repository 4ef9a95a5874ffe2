"""What services promise each other: Avro schemas, the codec, the registry, and the rules of compatibility.

On the way of a message: `codec.py` turns its value into bytes and back. All else happens at start-up: `files.py`
and `models.py` give schemas, `registry.py` gives them ids. fastavro and avro are imported only in this package.
"""
