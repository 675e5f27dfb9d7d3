"""The bytes of attachments: storages, uploads, downloads, and the reaper."""
