"""Bundles what the gRPC layer needs for attachments."""

from dataclasses import dataclass

from sessiond_server.blobs.downloads import Downloads
from sessiond_server.blobs.uploads import Uploads
from sessiond_server.store.attachments import AttachmentStore


@dataclass(frozen=True, slots=True)
class AttachmentAccess:
    """The store of attachments, and the uploads and downloads of their bytes."""

    store: AttachmentStore
    uploads: Uploads
    downloads: Downloads
