"""What events count as used."""
