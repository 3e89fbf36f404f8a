"""The thread that waits for the disk, so that the event loop does not."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from pipeline.gateway.spool import Spool

P = ParamSpec("P")
T = TypeVar("T")


class SpoolThread:
    """Runs calls of `spool` in one thread, in their order."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="drydock-spool")

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of a call. It is carried out even if the caller is cancelled."""
        job = partial(call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, job)

    async def close(self) -> None:
        """Close the spool, and end the thread."""
        await self.run(self.spool.close)
        self._executor.shutdown()
