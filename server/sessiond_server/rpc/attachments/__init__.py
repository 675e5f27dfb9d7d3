"""AttachmentService."""
