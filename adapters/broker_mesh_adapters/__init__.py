"""Adapters: other ways into the mesh, built on the public names of `broker_mesh` alone."""
