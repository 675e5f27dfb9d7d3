"""Attachments, as the wire needs them."""

from dataclasses import dataclass

from sessiond_server.blobs.downloads import Downloads
from sessiond_server.blobs.uploads import Uploads
from sessiond_server.store.attachments import AttachmentStore


@dataclass(frozen=True, slots=True)
class AttachmentAccess:
    """What is known of attachments, and the two ways of their bytes."""

    store: AttachmentStore
    uploads: Uploads
    downloads: Downloads
