"""``python -m nearfar``, for launchers that want a module."""

from nearfar.cli import main

main()
