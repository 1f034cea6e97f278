"""`python -m foodseg` is the `foodseg` command, where its script is not on the path."""

from foodseg.cli.main import main

if __name__ == "__main__":
    main()
