"""Adapters: other ways into the mesh, built on `broker_mesh` and its documented `broker_mesh.adapter` alone."""
