"""Zarr stores read strictly: every key asked for with patience and its own signature, none taken for missing values."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import xarray as xr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from pipelines.coregister.fetch import (
    ATTEMPTS,
    BACKOFF_S,
    FailureKind,
    Sign,
    classify,
    renewed,
    signed_by,
    storage_options,
)
from pipelines.patience import wait_s


def key_address(href: str, key: str) -> str:
    """The address of a key of a store; a query of the store's address is that of all of its keys."""
    path, mark, query = href.partition("?") if href.startswith(("http://", "https://")) else (href, "", "")
    return f"{path.rstrip('/')}/{key}{mark}{query}"


_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


class _StrictStore(WrapperStore):
    """A store whose every key is asked for as often as its failure deserves.

    A chunk that cannot be found is an error; Zarr would read it as never written, all missing. Keys have their own
    patience because a store has hundreds: asked for as a whole, one that fails at random would never be read whole.
    """

    def __init__(self, store: FsspecStore | LocalStore, href: str, sign: Sign | None = None) -> None:
        """A store that is read only.

        Args:
            store: as it is without a signature.
            href: its address, unsigned.
            sign: asked for a fresh address of the key before every request.
        """
        super().__init__(store)
        self.href, self.sign = href, sign

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Reads a key."""
        tried: Counter[FailureKind] = Counter()
        plain = f"{self.href.rstrip('/')}/{key}"
        unsigned = key_address(self.href, key)
        while True:
            headers: Mapping[str, str] = {}
            address = unsigned
            try:
                if self.sign is not None:
                    address = await asyncio.to_thread(signed_by, self.sign, unsigned)
                if address == plain:
                    found = await self._store.get(key, prototype, byte_range)
                else:
                    assert isinstance(self._store, FsspecStore), "files of this machine need no signature"
                    # A store without a root asks for the address as it is: nothing may come behind its query.
                    found = await FsspecStore(self._store.fs, path="", read_only=True).get(
                        address, prototype, byte_range
                    )
                if found is not None:
                    return found
                error: Exception = FileNotFoundError(f"chunk {key} of the store cannot be found")
            except Exception as failed:  # told apart by its class below
                error, headers = failed, getattr(failed, "headers", None) or {}
            kind = classify(error)
            tried[kind] += 1
            if tried[kind] >= ATTEMPTS[kind]:
                if isinstance(error, FileNotFoundError) and key.rsplit("/", 1)[-1] in _METADATA:
                    return None
                raise error
            if kind is FailureKind.EXPIRED and self.sign is not None:
                await asyncio.to_thread(renewed, self.sign, unsigned, address)
            await asyncio.sleep(wait_s(tried.total() - 1, headers, first_s=BACKOFF_S))


@lru_cache(maxsize=8)
def open_store(href: str, options: str, sign: Sign | None = None) -> xr.Dataset:
    """A Zarr store; a chunk that is missing is an error.

    Args:
        href: path or address, unsigned.
        options: keywords of xarray and the store, as JSON.
        sign: makes it one that can be opened.

    Raises:
        FileNotFoundError: nothing is found in it. Over HTTP, where nothing can be listed, that is a store whose
            consolidated metadata did not come.
    """
    settings: dict[str, Any] = json.loads(options)
    given = {**storage_options(sign, href), **(settings.pop("storage_options", None) or {})}
    store = (
        FsspecStore.from_url(href, storage_options=given, read_only=True)
        if "://" in href
        else LocalStore(href, read_only=True)
    )
    opened = xr.open_zarr(_StrictStore(store, href, sign), **{**settings, "chunks": None})
    if not opened.variables:
        raise FileNotFoundError(f"{href}: no array of the store can be found; are its metadata consolidated?")
    return opened
