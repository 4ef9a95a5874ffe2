"""What operators say of the mesh: checks as pure decisions, and resources from files and from `_mesh.policy`."""
