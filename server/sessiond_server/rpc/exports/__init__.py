"""ExportService."""
