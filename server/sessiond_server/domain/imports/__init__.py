"""What makes a session out of the records of an export."""
