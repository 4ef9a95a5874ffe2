"""`python -m broker_mesh.cli`: the command `mesh`, where its script is not on the path."""

from broker_mesh.cli import main

if __name__ == "__main__":
    main()
