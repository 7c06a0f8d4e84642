"""Large folders are listed once: what was found is kept and used while no folder changes.

A file added, renamed or removed changes the time stamp of its folder, so comparing the stamps of
all folders (not files) shows whether the index still holds. The content of files is not in it.
"""

import os
import time
from pathlib import Path

import numpy as np

from radio_core.data.folder import IMAGE_EXTENSIONS, FolderScan, scan_folder
from radio_core.data.images import printable
from radio_core.data.storage import PackedNames, Storage

KEEP_FROM = 10_000
"""Files from which on a folder's list is kept; shorter ones are made anew faster than told of."""

_KIND = "folders"
_SETTLED = 2 * 1000**3  # time stamps are this coarse on some file systems, in nanoseconds


def indexed_scan(root: Path, storage: Storage, keep_from: int = KEEP_FROM) -> FolderScan:
    """What `scan_folder` finds, from the kept index where that is up to date.

    Args:
        root: the folder.
        storage: where the index is kept, and who is told that it was used.
        keep_from: fewer files are not worth an index.

    Raises:
        FolderError: if the folder is missing or closed.
    """
    key = {"root": printable(root.resolve()), "endings": sorted(IMAGE_EXTENSIONS)}
    kept = None if storage.refresh else storage.load(_KIND, key)
    if kept is not None and _is_current(root, kept):
        scan = _unpack(kept)
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(int(kept["made"])))
        storage.tell(
            f"{printable(root)}: {len(scan.images)} images by the index of {made} "
            "(--refresh-index lists the folder again)"
        )
        return scan
    began = time.time_ns()
    what = f"listing {printable(root)}"
    scan = scan_folder(root, found=lambda count: storage.progress(what, count, None))
    # A folder that cannot be read now may be later, without a new time stamp.
    if len(scan.images) + len(scan.foreign) >= keep_from and not scan.closed:
        storage.save(_KIND, key, _pack(scan, began))
    return scan


def _pack(scan: FolderScan, began: int) -> dict[str, np.ndarray]:
    changed = np.array(scan.changed, dtype=np.int64)
    changed[changed > began - _SETTLED] = -1  # a change right after the look would go unnoticed
    return {
        "made": np.array(began // 1000**3),
        "changed": changed,
        **scan.images.arrays("images"),
        **scan.foreign.arrays("foreign"),
        **scan.folders.arrays("folders"),
    }


def _unpack(arrays: dict[str, np.ndarray]) -> FolderScan:
    images, foreign, folders = (
        PackedNames.from_arrays(arrays, name) for name in ("images", "foreign", "folders")
    )
    return FolderScan(images, foreign, [], folders, arrays["changed"].tolist())


def _is_current(root: Path, arrays: dict[str, np.ndarray]) -> bool:
    scan = _unpack(arrays)
    for folder, changed in zip(scan.folders, scan.changed, strict=True):
        try:
            status = os.stat(os.path.join(root, folder))
        except OSError:
            return False
        if status.st_mtime_ns != changed:
            return False
    return True
