"""Teacher outputs computed once and kept on disk, in shards that several processes can fill."""

from radio_core.distill.cache.codec import StoredError
from radio_core.distill.cache.layout import CacheLayout
from radio_core.distill.cache.store import CHUNK_BYTES, CONFIRM_BYTES, TeacherCache

__all__ = ["CHUNK_BYTES", "CONFIRM_BYTES", "CacheLayout", "StoredError", "TeacherCache"]
