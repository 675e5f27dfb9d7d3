"""Reads the conversations that other systems have stored, as exports that sessiond can import."""
