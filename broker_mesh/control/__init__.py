"""Rules and checks of the mesh as pure decisions, apart from who gathers the facts and who acts on them."""
