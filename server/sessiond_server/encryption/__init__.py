"""Encryption at rest (docs/encryption.md, docs/decisions/0058-encryption.md). No SQL, and no I/O but the key plugs'.

aead.py       the one module that imports `cryptography`
envelope.py   what an encrypted value looks like, and one data key at work
wrapping.py   the contract of key-encryption keys, and the local ones
keyring.py    the data keys of tenants, as a server knows them
rows.py       what a batch writes, encrypted
columns.py    columns that are searched: tokens in the place of words
cache.py      a cache whose copies are encrypted
blobs.py      a storage of attachments whose pieces are encrypted
"""
