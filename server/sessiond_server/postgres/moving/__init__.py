"""Moves a tenant from one database to another, while the service runs, by Postgres' logical replication.

The steps, each of which may be repeated after it was interrupted at any point (docs/decisions/0040-moving-a-tenant.md):

    copying     the target refuses writes of the tenant; a subscription copies its rows and follows the source
    closing     servers serve the tenant only while they know that it has not left the source
    switching   the source refuses writes of the tenant; the target gets the last rows
    opening     the target takes writes, and the map says so; from here on the move cannot be undone
    removing    the replication is ended, and the tenant's rows are removed from the source
    done        nothing is left of the move but its record

    aborting    the source takes writes again, and its slot is dropped; then subscription and copied rows are removed
"""
