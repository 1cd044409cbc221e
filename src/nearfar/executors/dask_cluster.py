"""Tasks on a Dask cluster, through joblib's own backend for it."""

from __future__ import annotations

from nearfar.errors import InputError
from nearfar.executors.base import PoolExecutor
from nearfar.extras import require_extras


class DaskExecutor(PoolExecutor):
    """The workers of a cluster; its scheduler repeats the tasks of lost ones.

    Args:
        address: of the scheduler, such as ``tcp://10.0.0.1:8786``.

    Raises:
        InputError: if Dask is not installed, or there is no scheduler at the address.
    """

    backend, is_cluster = "dask", True

    def __init__(self, address: str) -> None:
        require_extras("dask", "dask")
        from distributed import Client

        try:
            self.client = Client(address)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise InputError(
                "dask",
                found=f"no scheduler at {address} ({' '.join(str(error).split())[:120]})",
                expected="the address of a running Dask scheduler",
                remedy="Start it with dask scheduler, or correct the address",
            ) from None
        self.options = {"client": self.client}

    def losses(self) -> tuple[type[BaseException], ...]:
        """A task whose workers died several times."""
        from distributed import KilledWorker

        return (KilledWorker,)
