"""`python -m wsi_detect` is the command `wsi-detect`."""

from wsi_detect.cli import main

if __name__ == "__main__":
    main()
