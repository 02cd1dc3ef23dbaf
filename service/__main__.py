"""`python -m service` is `poselift`."""

from service.cli import main

if __name__ == "__main__":
    main()
