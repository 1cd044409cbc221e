"""``python -m nearfar``, which launchers such as accelerate and torchrun can start."""

from nearfar.cli import main

if __name__ == "__main__":
    main()
